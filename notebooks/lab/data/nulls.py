"""Find nulls that `datasets` fills in: each row of a struct gets the keys of all rows."""

import pyarrow as pa
from datasets import Dataset

from lab.data.problems import Problem, cut

FILLED = (
    "{} hold null: datasets gives each of them the keys of all, and fills in null, which the chat "
    "template writes down; keep them as they are: {}"
)
MIXED_TYPES = "Dataset.from_list(rows, on_mixed_types='use_json')"
AS_TEXT = "tools = json.dumps(tools), which TRL reads too"
IN_DATASET = (
    "Dataset.from_list fills in null here: use Dataset.from_list(rows, on_mixed_types='use_json')"
)


class Nulls:
    """Finds in the rows of a data set what is null because other rows have a key more.

    A list of rows is looked at as Dataset.from_list would store it.
    """

    def __init__(self, dataset):
        self.stored, self.is_list = dataset, not isinstance(dataset, Dataset)
        if self.is_list:
            try:
                self.stored = Dataset.from_list(list(dataset))
            except (pa.ArrowException, TypeError, ValueError, AttributeError):  # of several types
                self.stored = Dataset.from_list([])
        self.features = {
            name: feature
            for name, feature in self.stored.features.items()
            if name == "tools" or _feature_at(feature, ("tool_calls",)) is not None
        }

    def check(self, number, row):
        """Find the nulls in the tool arguments and the tools of one row."""
        if not self.features:
            return
        row = self.stored[number] if self.is_list else row
        for name, feature in self.features.items():
            if name == "tools":
                for tool in _filled(row[name], feature):
                    yield Problem(FILLED.format("`tools`", AS_TEXT), cut(tool), "noted")
                continue
            for call in _calls(row[name], feature):
                way = IN_DATASET if self.is_list else FILLED.format("tool arguments", MIXED_TYPES)
                yield Problem(way, cut(call), "noted" if self.is_list else "refused")


def _calls(messages, feature):
    """The arguments of tool calls that hold a filled null."""
    for path in (("tool_calls", "function", "arguments"), ("tool_calls", "arguments")):
        inner = _feature_at(feature, path)
        for message in messages or ():
            for call in message.get("tool_calls") or ():
                function = call.get("function") or {} if len(path) == 3 else call
                yield from _filled(function.get("arguments"), inner)


def _filled(value, feature):
    """The dicts in a value with a null where another row has something."""
    if isinstance(value, dict) and isinstance(feature, dict):
        known = [key for key in value if key in feature]
        if any(value[key] is None and not _is_null(feature[key]) for key in known):
            yield value
        for key in known:
            yield from _filled(value[key], feature[key])
    elif isinstance(value, list):
        for item in value:
            yield from _filled(item, _inner(feature))


def _feature_at(feature, path):
    for key in path:
        feature = _inner(feature)
        feature = feature.get(key) if isinstance(feature, dict) else None
    return feature


def _inner(feature):
    """The feature of the items of a list."""
    if isinstance(feature, list):
        return feature[0]
    return getattr(feature, "feature", feature)


def _is_null(feature):
    return getattr(feature, "dtype", None) == "null"
