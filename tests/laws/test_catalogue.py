"""The catalogue leads to what it names: functions, proofs, twins and lessons."""

import ast
import functools
import inspect
import json
import re
from pathlib import Path

import pytest

import reference_math
from reference_math import _index, catalogue

ROOT = Path(reference_math.__file__).parents[1]
OBJECTIVES = catalogue.OBJECTIVES
BY_NAME = pytest.mark.parametrize("objective", OBJECTIVES, ids=lambda o: o.names[0])
MODULES = sorted(set(dir(reference_math)) - {"find", "catalogue", "torch", "conformance"})


@functools.cache
def imports(path):
    """Modules of reference_math that a file imports, or names for importlib to import."""
    found, text = set(), path.read_text()
    if "importlib.import_module" in text:
        found |= {module for module in MODULES if f'"{module}"' in text}
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("reference_math"):
            found |= {alias.name for alias in node.names} | {node.module.rpartition(".")[2]}
    return found


def drives(path, module):
    """A file that uses a module built on this one, and says a function or a method of this one."""
    source = (ROOT / "reference_math" / f"{module}.py").read_text()
    functions = re.findall(r"^def ([a-z]\w+)\(", source, re.MULTILINE)
    methods = [n for o in OBJECTIVES if o.formula.split(".")[0] == module for n in o.names]
    above = {module}
    for _ in MODULES:  # directly or through others
        above |= {m for m in MODULES if above & imports(ROOT / "reference_math" / f"{m}.py")}
    text = path.read_text().lower()
    said = [name for name in (*functions, *methods) if says(text, name.lower())]
    return bool(above & imports(path)) and bool(said)


@functools.cache
def lesson_code(lesson):
    cells = json.loads((ROOT / lesson).read_text())["cells"]
    return "\n".join("".join(c["source"]) for c in cells if c["cell_type"] == "code")


def says(text, name):
    return re.search(rf"(?<!\w){re.escape(name)}(?!\w)", text)


# Names ------------------------------------------------------------------------------------------


@BY_NAME
def test_every_name_leads_to_its_objective(objective):
    for name in objective.names:
        entry = reference_math.find(name)
        assert entry.names == objective.names
        assert reference_math.find(name.upper().replace(" ", "_")) == entry
        assert entry.paper and entry.proof and entry.formula in str(entry)


@pytest.mark.parametrize(
    "name, formula",
    [
        ("GSPO", "grpo.loss"),
        ("Dr. GRPO", "grpo.loss"),
        ("IPO", "dpo.ipo"),
        ("robust", "dpo_margin.robust"),
        ("cDPO", "cpo.pair_loss"),
        ("ScaleRL", "cispo.loss"),
        ("EXO", "dpo_margin.exo_pair"),
        ("PiSSA", "lora_init.pissa"),
        ("rsLoRA", "lora.scaling"),
        ("k3", "kl.k3"),
        ("WPO", "wpo.pair_weights"),
        ("GDPO", "multi_reward.normalize_then_sum"),
        ("REINFORCE++", "advantages.whiten"),
        ("nucleus sampling", "logits_filters.top_p"),
        ("double quantization", "double_quant.quantize"),  # either spelling
        ("Generalized Advantage Estimation", "gae.advantages"),
        ("length-normalized DPO", "dpo.sigmoid"),
        ("sequence_mask", "importance_sampling.ratio"),  # an option's value, as TRL writes it
        ("dpo_pointwise", "dpo_pointwise.nca_pair"),  # a module's name, too
    ],
)
def test_names_of_the_field_lead_to_the_formula(name, formula):
    assert reference_math.find(name).formula == formula


def test_an_unknown_name_is_refused_with_what_is_near():
    with pytest.raises(ValueError, match="no method is called 'gsppo'; near: .*'GSPO'"):
        reference_math.find("gsppo")
    with pytest.raises(ValueError, match="near: 'APO-zero', 'APO-down'"):
        reference_math.find("APO")
    with pytest.raises(ValueError, match="near: see README.md"):
        reference_math.find("?")


def test_what_other_libraries_have_and_this_one_has_not_is_said():
    known = catalogue._names()
    for absent in catalogue.NOT_HERE:
        assert absent.libraries and absent.what
        for name in absent.names:
            assert catalogue._key(name) not in known, name
            with pytest.raises(ValueError, match=rf"^{re.escape(absent.names[0])} is not here"):
                reference_math.find(name)
        for function in re.findall(r"`(\w+\.\w+)`", absent.what):
            assert callable(catalogue.function(function))
    with pytest.raises(ValueError, match=r"FIPO is not here \(ms-swift, arXiv 2603.19835\)"):
        reference_math.find("fipo")
    assert "## Not here" in _index.text()


def test_no_name_means_two_methods():
    names = [key for o in OBJECTIVES for key in {catalogue._key(name) for name in o.names}]
    assert [name for name in names if names.count(name) > 1] == []


def test_the_options_make_the_method():
    """GSPO and GRPO share a function: the entry says which arguments tell them apart."""
    gspo, grpo = (reference_math.find(name) for name in ("GSPO", "GRPO"))
    assert gspo.options["importance_sampling_level"] == "sequence"
    assert grpo.options["importance_sampling_level"] == "token"
    assert "epsilon_low, epsilon_high, delta=None" in gspo.call
    assert "importance_sampling_level='sequence'" in str(gspo)


# The package ------------------------------------------------------------------------------------


def test_the_package_lists_its_modules_and_loads_them():
    assert {"find", "grpo", "torch", "conformance"} <= set(dir(reference_math))
    assert not {"dpo_loss", "_checks"} & set(dir(reference_math))
    for name in MODULES:
        assert getattr(reference_math, name).__name__ == f"reference_math.{name}"
    with pytest.raises(AttributeError, match="no attribute 'gspo'"):
        reference_math.gspo  # noqa: B018


def test_no_method_module_imports_the_catalogue():
    for path in (ROOT / "reference_math").glob("*.py"):
        if path.stem not in ("__init__", "_index", "catalogue"):
            assert "catalogue" not in imports(path), path.name


def test_every_module_is_in_the_index():
    text = _index.text()
    assert [name for name in MODULES if f"`{name}" not in text] == []


def test_the_index_is_up_to_date():
    command = "python -m reference_math._index"
    assert _index.README.read_text() == _index.text(), f"run {command}"


def test_every_link_of_the_index_leads_to_a_file():
    links = re.findall(r"\]\(([^)]+)\)", _index.README.read_text())
    assert len(links) > 3 * len(OBJECTIVES)
    for link in set(links):
        assert (_index.README.parent / link).resolve().is_file(), link


# Functions and pointers -------------------------------------------------------------------------


@BY_NAME
def test_formula_and_loss_are_functions_and_the_loss_hides_no_argument(objective):
    formula = catalogue.function(objective.formula)
    assert callable(formula) or objective.formula == "conventions.TABLE"
    if objective.loss:
        for name in (objective.loss, f"{objective.loss}_grad"):
            parameters = inspect.signature(catalogue.function(name)).parameters
            kinds = {p.kind for p in parameters.values()}
            assert not kinds & {inspect.Parameter.VAR_KEYWORD, inspect.Parameter.VAR_POSITIONAL}
            assert set(objective.options) | set(objective.inputs()) <= set(parameters)
        assert [*inspect.signature(catalogue.function(objective.loss)).parameters] == [*parameters]


@pytest.mark.parametrize("module", MODULES)
def test_no_public_function_hides_arguments(module):
    """grpo_trainer takes fields of TRL's GRPOConfig, and compares each name with its DEFAULTS."""
    hiding = {
        name
        for name, f in vars(getattr(reference_math, module)).items()
        if inspect.isfunction(f) and f.__module__ == f"reference_math.{module}" and name[0] != "_"
        for p in inspect.signature(f).parameters.values()
        if p.kind in (p.VAR_KEYWORD, p.VAR_POSITIONAL)
    }
    assert hiding == ({"loss", "loss_grad"} if module == "grpo_trainer" else set())


@BY_NAME
def test_the_lesson_uses_the_method(objective):
    if not objective.lesson:
        return
    module, code = objective.formula.partition(".")[0], lesson_code(objective.lesson)
    named = any(says(code, name) for name in objective.names)
    assert named or re.search(rf"from reference_math import .*\b{module}\b", code)


@pytest.mark.parametrize("module", MODULES)
def test_every_pointer_of_a_header_is_true(module):
    header = catalogue.headers(module)
    assert header["Proof"], "a header names its proof"
    for proof in header["Proof"]:
        assert (ROOT / proof).is_file(), proof
        assert module in imports(ROOT / proof) or drives(ROOT / proof, module), proof
    if header["Torch"]:
        twin = ROOT / f"{header['Torch'].replace('.', '/')}.py"
        assert twin.is_file() and f"Twin of   reference_math.{twin.stem}" in twin.read_text()
    assert "Lesson" in getattr(reference_math, module).__doc__, "a lesson, or none"
    if header["Lesson"]:
        code = lesson_code(header["Lesson"])
        taught = [o for o in OBJECTIVES if o.formula.split(".")[0] == module and o.lesson]
        assert re.search(rf"\b{module}\b", code) or header["Lesson"] in {o.lesson for o in taught}


def test_a_method_without_a_lesson_leads_to_one_of_its_family():
    """In one step, as the others: only the optimisers stand in no lesson."""
    for objective in OBJECTIVES:
        entry = reference_math.find(objective.names[0])
        assert not (objective.lesson and objective.nearest)
        if objective.nearest:
            beside = {o.lesson for o in OBJECTIVES if o.family == objective.family}
            own = catalogue.headers(objective.formula.partition(".")[0])["Lesson"]
            assert objective.nearest in {own, *beside}
            assert f"lesson   none of its own; nearest: {objective.nearest}" in str(entry)
        else:
            assert objective.lesson or objective.family == "optimiser", objective.names[0]
    assert reference_math.find("GSPO").nearest == "notebooks/03_grpo.ipynb"
    assert reference_math.find("PiSSA").nearest == "notebooks/04_before_and_after.ipynb"
