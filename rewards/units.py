r"""Read units: the table of those that may stand beside a number, and how they combine.

    unit   term, then more terms, each after a space, a dot or a product sign, "/" or "per"
    term   [square | sq | cubic | cu] word [power | squared | cubed]
    word   from the table below, or a noun that the gold or the question uses

A word that is neither is no unit, and nothing is guessed: "7 apples" is read where the question
asks for apples, "7 twelfths" never. Units are compared after spelling, plural and order are
evened out; nothing is converted, since the question asks for one unit.
"""

import re

from rewards._types import Nouns

MAX_CHARS = 120  # of a unit: what is longer is a sentence
_PREFIXES = {
    "k": "kilo", "M": "mega", "G": "giga", "c": "centi", "m": "milli", "\\mu": "micro",
    "n": "nano", "d": "deci",
}  # fmt: skip
_PREFIXED = {  # symbol: names, and the prefixes it takes
    "m": ("meter metre", "k c m \\mu n d"), "g": ("gram gm", "k m \\mu"),
    "L": ("liter litre l", "m c d k"), "s": ("second sec", "m \\mu n"),
    "W": ("watt", "k M G m"), "V": ("volt", "k m"), "A": ("ampere amp", "m"),
    "J": ("joule", "k M m"), "Hz": ("hertz", "k M G"), "Pa": ("pascal", "k M"),
    "N": ("newton", "k m"), "\\Omega": ("ohm", "k M"), "mol": ("mole", "m"),
    "cal": ("calorie", "k"), "Wh": ("", "k M"), "bit": ("", ""), "byte": ("", ""),
    "eV": ("electronvolt", "k M G"),
}  # fmt: skip
_PLAIN = {
    "kB": "KB kilobyte", "MB": "megabyte", "GB": "gigabyte", "TB": "terabyte",
    "in": "inch inches", "ft": "foot feet", "yd": "yard", "mi": "mile", "lb": "lbs",
    "oz": "ounce", "ton": "tonne", "min": "minute", "h": "hour hr", "day": "", "week": "wk",
    "month": "", "yr": "year", "gal": "gallon", "quart": "qt", "pint": "", "acre": "",
    "ha": "hectare", "deg": "degree \\circ", "rad": "radian", "usd": "dollar \\usd bucks",
    "cent": "¢", "eur": "euro €", "gbp": "£", "pound": "", "inr": "rupee rs ₹", "yen": "jpy 円",
    "yuan": "rmb cny 元", "¥": "", "won": "krw ₩ 원", "ruble": "rouble ₽", "peso": "",
    "unit": "", "am": "a.m a.m.", "pm": "p.m p.m.", "knot": "", "cup": "", "tablespoon": "tbsp",
    "teaspoon": "tsp", "o'clock": "", "mi/h": "mph", "km/h": "kmh kph kmph",
    "mi/gal": "mpg", "C": "celsius centigrade", "F": "fahrenheit", "K": "kelvin",
}  # fmt: skip
_FACTORS = {"square": 2, "sq": 2, "cubic": 3, "cu": 3}
_POWERS = {"squared": 2, "cubed": 3}
_FAMILIES = [  # the parts of one quantity, largest first: 2 ft 6 in
    str.split("yr month week day h min s"),
    str.split("mi yd ft in"),
    str.split("km m dm cm mm"),
    str.split("ton lb oz"),
    str.split("ton kg g mg"),
    str.split("usd cent"),
    str.split("gal quart pint cup"),
]
_CHINESE = dict(
    pair.split(":")
    for pair in str.split(
        "米:m 厘米:cm 毫米:mm 分米:dm 千米:km 公里:km 克:g 千克:kg 公斤:kg 吨:ton 升:L 毫升:mL "
        "小时:h 个小时:h 時間:h 分钟:min 秒:s 天:day 日:day 周:week 个月:month 月:month 年:yr 度:deg "
        "平方米:m^2 平方厘米:cm^2 平方千米:km^2 平方分米:dm^2 立方米:m^3 立方厘米:cm^3 立方分米:dm^3 "
        "元:yuan 美元:usd 欧元:eur 円:yen 日元:yen 원:won 歳:yr 岁:yr 평:unit"
    )
)
_COUNTERS = set("个個只隻本人名张張支枝棵块塊条條件套页頁种種次辆輛头頭匹朵把颗顆粒台间座位户瓶杯盒箱袋"
                "题題分枚개명")  # fmt: skip
_NUMBER_WORDS = (
    "one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen "
    "sixteen seventeen eighteen nineteen twenty thirty forty fifty sixty seventy eighty ninety "
    "hundred thousand million billion trillion zero dozen score gross pair couple trio lakh crore "
    "myriad googol grand half halve third quarter fourth fifth sixth seventh eighth ninth tenth "
    "eleventh twelfth hundredth thousandth double triple quadruple twice thrice squared cubed "
    "factorial times plus minus over or and not nor more less least most mod modulo base than to "
    "is are be with approximately about except but negative inverse reciprocal opposite because "
    "since if when unless otherwise instead versus vs maybe perhaps probably possibly likely might "
    "could would should guess unsure wrong incorrect false roughly around nearly almost percent"
)
_CHANGES = re.compile(  # words that are no noun, not even in a gold
    r"(?:" + "|".join(_NUMBER_WORDS.split()) + r"|\w*(?:illion(?:th)?|teenth|tieth|fold))s?"
)
_NO_NOUN = re.compile(  # nor these, though a question may use them
    r"(?:\w{3,}(?:ed|ing)|was|were|has|have|had|without|fewer|greater|positive|must|cannot|never|none|"
    r"no|invalid|impossible|correct|right|true|what|which|how|many|much|find|the|a|an|it|that|this|"
    r"there|of|root|square|cube|power|exponent|ratio|part|off|away|fail|any|each|every|all|in|at|"
    r"multiple|per|by|on|up|down|as|so|do|does|will|can|may|until|left|other|another|wide|deep)s?"
)
_SIGNS = {"\\usd": "usd", "€": "eur", "£": "gbp", "₹": "inr", "¥": "¥", "₩": "won", "₽": "ruble"}
_CODES = {"rs": "inr", "inr": "inr", "usd": "usd", "us\\usd": "usd", "eur": "eur", "gbp": "gbp"}
_CODE = re.compile(
    r"(-?)\s*(?:\\text\{\s*)?(Rs|INR|USD|US\\usd|EUR|GBP)\.?\s*\}?\s*(?=\\usd|[0-9.])",
    re.IGNORECASE,
)
_AMBIGUOUS = {"pound": ("lb", "gbp"), "¥": ("yen", "yuan")}
_TOKEN = re.compile(
    r"\s*(?:\^\s*\{?\s*(?P<power>-?[1-9])\s*\}?|(?P<per>/|per(?![a-z]))|(?P<dot>\*|\\cdot(?![a-z])|·)|"
    r"(?P<degree>\^\s*\{?\s*\\circ\s*\}?)|"
    r"(?P<word>\\mu\s*[a-zA-Z]+|[kM]?\s*\\Omega|[aApP]\.\s?[mM]\.?|[A-Za-z]+(?:'[a-z]+)?|¢)\.?)\s*"
)
_TEXT = re.compile(r"\\(?:text|operatorname)\{([^{}]*)\}")
_TAIL = re.compile(  # the characters of a unit; `read_unit` decides
    r"(?:\\(?:text|Omega|mu|cdot|circ|operatorname)(?![a-z])|[A-Za-z]++|[\^{}/*.'¢·1-9\s-])+"
)
_STARTS = re.compile(r"(?<=[0-9)}%])|(?<=\\pi)(?![a-z])")
_PLAIN_NUMBER = re.compile(r"[-+0-9.,/ ]*")
_QUANTITY = re.compile(r"\s*([0-9]+(?:\.[0-9]+)?)([^0-9]+)")


def _table():
    table = {}
    for symbol, (names, prefixes) in _PREFIXED.items():
        for prefix in ["", *prefixes.split()]:
            for name in (symbol, *names.split()):
                spelled = name if len(name) < 3 or name.startswith("\\") else None
                long = _PREFIXES.get(prefix, prefix) + name
                table[prefix + spelled if spelled else long] = prefix + symbol
                table[prefix + symbol] = prefix + symbol
    for canonical, names in _PLAIN.items():
        table |= dict.fromkeys((canonical, *names.split()), canonical)
    for letter in "CFK":  # 37 C may be a product or a choice: a letter alone says too little
        del table[letter]
    return table


_UNITS = _table()
_KNOWN = {name for unit in _UNITS.values() for name in unit.split("/")}


def split_unit(text: str, nouns: Nouns | None = frozenset()) -> tuple[str, str]:
    r"""Return the text without its unit, and the unit, "" when there is none.

    text      str            in the notation of `rewards.notation`
    nouns     set of words   that may stand beside the number too; None: any noun, as in a gold
    returns   (str, str)

    >>> split_unit(r"5 \text{ km}"), split_unit("5 kilometers"), split_unit("5x")
    (('5', 'km'), ('5', 'km'), ('5x', ''))
    >>> split_unit("7 apples"), split_unit("7 apples", {"apple"}), split_unit("7 lakh", {"lakh"})
    (('7 apples', ''), ('7', 'apple'), ('7 lakh', ''))
    """
    if _PLAIN_NUMBER.fullmatch(text):
        return text, ""
    if found := _CODE.match(text):
        value, more = split_unit(found[1] + text[found.end() :], nouns)
        unit = _CODES[found[2].lower()]
        return (value, unit) if more in ("", unit) else (text, "")
    for sign, unit in _SIGNS.items():
        if sign in text and (bare := _without_sign(text, sign)) is not None:
            value, more = split_unit(bare, nouns)
            return (value, unit) if more in ("", unit) else (text, "")
    if found := re.fullmatch(r"(.*[0-9)}%])\s*([^\x00-\x7f]+)", text):
        unit = _chinese(found[2])
        return (found[1], unit) if unit else (text, "")
    return _trailing(text, nouns)


def read_unit(text: str, nouns: Nouns | None = frozenset()) -> str:
    r"""Return the canonical name of a unit, "" when some of the text is no unit.

    >>> read_unit("meters per second squared"), read_unit(r"\text{ m/s}^2"), read_unit("sq. ft")
    ('m s^-2', 'm s^-2', 'ft^2')
    """
    powers: dict[str, int] = {}
    last: tuple[str, int] | None = None
    sign, factor = 1, 1
    text, at = _TEXT.sub(r" \1 ", text).strip(), 0
    while at < len(text):
        if not (found := _TOKEN.match(text, at)):
            return ""
        at = found.end()
        word = (found["word"] or "").rstrip(".").lower()
        if found["per"] or found["dot"]:
            sign = -1 if found["per"] else sign
        elif word in _FACTORS:
            factor = _FACTORS[word]
        elif found["power"] or word in _POWERS:
            if last is None:
                return ""
            power = int(found["power"] or _POWERS[word])
            powers[last[0]] += last[1] * (power - 1)
            last = None
        elif word == "of" and last is not None:
            continue
        else:
            scale = word.upper() in ("C", "F") and last == ("deg", 1)
            name = "deg" if found["degree"] else _name(found["word"], nouns)
            name = word.upper() if scale else name
            if not name:
                return ""
            over = name.split("/")
            powers[over[0]] = powers.get(over[0], 0) + sign * factor
            for below in over[1:]:
                powers[below] = powers.get(below, 0) - 1
            last, sign, factor = (over[0], sign), 1, 1
    return _written(powers) if factor == 1 and sign == 1 else ""


def same_unit(one: str, other: str) -> bool:
    """Tell whether two units are the same. A pound is a weight or a currency; of two names one may be fuller.

    >>> same_unit("pound", "gbp"), same_unit("marble red", "marble"), same_unit("km", "m")
    (True, True, False)
    """
    if one == other:
        return True
    for name, meanings in _AMBIGUOUS.items():
        if (one == name and other in meanings) or (other == name and one in meanings):
            return True
    names = set(one.split()), set(other.split())
    nouns = not (names[0] | names[1]) & _KNOWN and "^" not in one + other
    return nouns and (names[0] <= names[1] or names[1] <= names[0])


def quantities(text: str) -> tuple[tuple[str, str], ...] | None:
    r"""Return the parts of one quantity in several units, largest first; None for anything else.

    >>> quantities(r"2\text{ ft }6\text{ in}"), quantities("3 weeks, 2 days"), quantities("5 ft")
    ((('2', 'ft'), ('6', 'in')), (('3', 'week'), ('2', 'day')), None)
    """
    if not text[:1].isdigit() or "^" in text:
        return None
    parts, at = [], 0
    while found := _QUANTITY.match(text, at):
        words = _TEXT.sub(r" \1 ", found[2])
        words = re.sub(r"(?:\s|,|\band\b)*$", "", words)
        unit = read_unit(words)
        parts.append((found[1], "lb" if unit == "pound" else unit))
        at = found.end()
    units = [unit for _, unit in parts]
    if at < len(text) or len(parts) < 2:
        return None
    for family in _FAMILIES:
        order = [family.index(unit) for unit in units if unit in family]
        if len(order) == len(units) and order == sorted(set(order)):
            return tuple(parts)
    return None


def singular(word: str) -> str:
    """Return a noun without its plural ending, in small letters.

    >>> singular("Boxes"), singular("pennies"), singular("glass"), singular("apples")
    ('box', 'penny', 'glass', 'apple')
    """
    word = word.lower()
    for ending, by in (("ies", "y"), ("xes", "x"), ("ches", "ch"), ("shes", "sh"), ("sses", "ss")):
        if word.endswith(ending) and len(word) > len(ending) + 1:
            return word.removesuffix(ending) + by
    return word if word.endswith("ss") or len(word) < 3 else word.removesuffix("s")


def nouns_in(text: str) -> set[str]:
    """Return the words of a text that may stand beside a number: no number word, no verb form.

    >>> sorted(nouns_in("How many red apples are half of twelve apples?"))
    ['apple', 'red']
    """
    words = re.findall(r"[A-Za-z]{2,}", text)
    return {singular(w) for w in words if not _is_no_noun(w)}


def changes_the_number(word: str) -> bool:
    """Tell whether a word changes the number (twelfths, million, doubled): such a word is never a unit."""
    return bool(_CHANGES.fullmatch(word.lower()))


def _is_no_noun(word):
    return changes_the_number(word) or bool(_NO_NOUN.fullmatch(word.lower()))


def _trailing(text, nouns):
    for start in _STARTS.finditer(text):
        tail = text[start.end() :]
        if len(tail) > MAX_CHARS or not re.search(r"[A-Za-z¢]", tail) or not _TAIL.fullmatch(tail):
            continue
        product = re.match(r"\s*(?:\\cdot|\*|·)|[A-Za-z](?![A-Za-z])", tail)  # 5m, not 5 m
        unit = "" if product else read_unit(tail, nouns)
        if unit:
            return text[: start.end()].strip(), unit
    return text, ""


def _without_sign(text, sign):
    """$5, -$5, 5$ without the sign; None where it stands elsewhere."""
    minus = "-" if text.startswith("-") else ""
    bare = text.removeprefix("-").strip()
    if bare.startswith(sign):
        return minus + bare.removeprefix(sign).strip()
    return text.removesuffix(sign).strip() if text.endswith(sign) else None


def _name(word, nouns):
    word = "".join(word.split()) if "\\" in word else word
    word = word if word.endswith((".m.", ".M.")) else word.rstrip(".")
    lower = word.lower()
    for form in (word, *((lower, singular(lower)) if len(word) > 1 else ())):
        if form in _UNITS:
            return _UNITS[form]
    if nouns is None:
        known = len(word) > 1 or word == "K"
        return singular(word) if known and not changes_the_number(word) else ""
    noun = singular(word)
    return noun if noun in nouns and not _is_no_noun(word) else ""


def _written(powers):
    if powers.get("deg") and (scale := {"C", "F"} & set(powers)):  # degrees Celsius
        del powers["deg"]
        powers = {**powers, scale.pop(): 1}
    parts = sorted((name, power) for name, power in powers.items() if power)
    return " ".join(name if power == 1 else f"{name}^{power}" for name, power in parts)


def _chinese(words):
    if words in _CHINESE:
        return _CHINESE[words]
    return words if words in _COUNTERS else ""
