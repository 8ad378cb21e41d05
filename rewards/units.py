r"""Units, split off the end of an answer and made comparable as short strings.

A unit is `\text{...}` at the end, a degree sign, a currency sign, or trailing plain words.
They are compared as written, plurals and the synonyms below folded; nothing is converted,
since the question asked for one unit. A word that changes the number (million, dozen, half,
squared ...) or takes it back (maybe, wrong, unless ...) is no unit: it is refused.
"""

import re

from rewards.refused import Refused

_SYNONYMS = {
    "km": "kilometer kilometre kms", "m": "meter metre", "cm": "centimeter centimetre cms",
    "dm": "decimeter decimetre", "mm": "millimeter millimetre", "in": "inch inches",
    "ft": "foot feet", "yd": "yard yds", "mi": "mile", "kg": "kilogram kilo kgs",
    "g": "gram gm gms", "mg": "milligram", "lb": "pound lbs", "oz": "ounce",
    "s": "second sec secs", "min": "minute mins", "h": "hour hr hrs", "ms": "millisecond",
    "day": "", "week": "", "month": "", "yr": "year yrs", "L": "liter litre l",
    "mL": "milliliter millilitre ml", "gal": "gallon", "usd": "dollar buck", "cent": "",
    "eur": "euro", "gbp": "", "inr": "rupee rs", "deg": "degree", "rad": "radian",
    "J": "joule", "N": "newton", "W": "watt", "kW": "kilowatt", "V": "volt", "A": "ampere amp",
    "K": "kelvin", "C": "celsius", "F": "fahrenheit", "Hz": "hertz", "Pa": "pascal",
    "mph": "", "kmh": "kph", "ha": "hectare", "unit": "", "mol": "mole", "am": "", "pm": "",
}  # fmt: skip
_CANONICAL = {w: unit for unit, words in _SYNONYMS.items() for w in (unit, *words.split())}
_CHANGES_THE_NUMBER = re.compile(
    r"\b(?:hundred|thousand|million|billion|trillion|dozen|score|gross|half|halve|third|quarter|"
    r"fourth|fifth|sixth|seventh|eighth|ninth|tenth|hundredth|thousandth|squared|cubed|factorial|"
    r"times|plus|minus|over|or|and|not|nor|more|less|least|most|mod|modulo|base|than|to|of|is|are|"
    r"be|with|approximately|about|except|but|"
    r"one|two|three|four|five|six|seven|eight|nine|ten|eleven|twelve|twenty|thirty|forty|fifty|"
    r"double|twice|triple|negative|inverse|reciprocal|because|since|if|when|unless|otherwise|"
    r"instead|versus|vs|maybe|perhaps|probably|possibly|likely|might|could|would|should|guess|"
    r"unsure|wrong|incorrect|false|roughly|around|nearly|almost)s?\b",
    re.IGNORECASE,
)
_CURRENCY = {"\\usd": "usd", "€": "eur", "£": "gbp", "₹": "inr", "¥": "yen"}
_POWER = r"(?:\s*\^\s*(?:\{\s*-?[1-9]\s*\}|[1-9]))?"
_TEXT = r"\\text\{[^{}]*\}" + _POWER
_IN_TEXT = re.compile(r"(?P<value>.*?)\s*(?P<unit>(?:" + _TEXT + r"\s*[/*]?\s*)+)", re.DOTALL)
_NAME = r"[A-Za-z]+" + _POWER + r"(?:\s*/\s*[A-Za-z]+" + _POWER + ")?"
_WORDS = _NAME + r"(?: " + _NAME + r"){0,4}"
_IN_WORDS = re.compile(r"(?P<value>.*?[0-9})%])(?P<gap>\s*)(?P<unit>" + _WORDS + ")", re.DOTALL)
_FACTORS = {"square": "^2", "sq": "^2", "cubic": "^3", "cu": "^3"}


def split_unit(text):
    r"""The text without its unit, and the unit, "" when there is none.

    text      str   in the notation of `rewards.notation`
    returns   (str, str)
    Raises Refused when the trailing words change the number ("5 million").

    >>> split_unit(r"5 \text{ km}"), split_unit("5 kilometers"), split_unit("5x")
    (('5', 'km'), ('5', 'km'), ('5x', ''))
    """
    for sign, unit in _CURRENCY.items():
        if text.startswith(sign) or text.endswith(sign):
            value, more = split_unit(text.removeprefix(sign).removesuffix(sign).strip())
            return value, unit if more in ("", unit) else unit + more
    if text.endswith("^\\circ"):
        return text.removesuffix("^\\circ").strip(), "deg"
    if (found := _IN_TEXT.fullmatch(text)) and found["value"]:
        words = re.sub(r"\\text\{([^{}]*)\}", r" \1", found["unit"])
        if len(words.strip()) > 1 or words.strip() in _CANONICAL:  # 5\text{x} is 5 times x
            value = found["value"].removesuffix("^\\circ")  # 30^\circ \text{C}
            return value.strip(), _canonical(words)
    if (found := _IN_WORDS.fullmatch(text)) and _is_unit(found["unit"], found["gap"]):
        return found["value"], _canonical(found["unit"])
    return text, ""


def _is_unit(words, gap):
    """Plain letters after a number: a unit, or variables that multiply it?"""
    first = re.match("[A-Za-z]+", words)[0]
    known = first in _CANONICAL or (len(first) > 1 and first.lower() in _CANONICAL)  # PM, KM
    if known or _CHANGES_THE_NUMBER.fullmatch(first):
        return bool(gap) or len(first) > 1  # "5m" is 5 times m, "5 m" and "5km" are lengths
    return bool(gap) and (len(first) > 3 or first == "men")  # shorter: variables in a row


def _canonical(words):
    words = re.sub(r"[\s.~()]+", " ", words.replace("{", "").replace("}", "")).strip()
    words = re.sub(r"\s*([/^*])\s*", r"\1", re.sub(r"\bper ", "/", words))
    if _CHANGES_THE_NUMBER.search(words):
        raise Refused(f"{words!r} changes the number")
    power, names = "", []
    for name in words.split():
        if name.lower() in _FACTORS:
            power = _FACTORS[name.lower()]
            continue
        names.append(re.sub("[A-Za-z]+", lambda m: _singular(m[0]), name) + power)
        power = ""
    unit = " ".join(names)
    return {"km/h": "kmh", "mi/h": "mph", "deg C": "C", "deg F": "F"}.get(unit, unit)


def _singular(word):
    for form in (word, word.lower(), word.lower().removesuffix("s")):
        if form in _CANONICAL:
            return _CANONICAL[form]
    return word.lower().removesuffix("s")
