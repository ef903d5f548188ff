"""The gate: figures held to limits, the record of what was measured, and the tables."""

from __future__ import annotations

import json

import pytest

from minilm.kernels.cuda.instances import Instance
from minilm.kernels.gate import compile as compiling, rules, sass, tables
from tests.kernels.gate_samples import GOOD, LIMITS_OF_TEST, listing

# --- limits ---------------------------------------------------------------------------------------------------------


def test_what_is_within_the_limits_passes():
    assert rules.violations([GOOD], LIMITS_OF_TEST) == []


@pytest.mark.parametrize(
    ("planted", "message"),
    [
        ({"stack": 16}, "stack 16 > 0 (an array in memory)"),
        ({"spills": 2}, "spills 2 > 0"),
        ({"registers": 41}, "registers 41 > 40 (full occupancy)"),
        ({"wide_loads": 0}, "wide_loads 0 < 1"),
        ({"async_copies": 5}, "async_copies 5 is not 4"),
        ({"blocks": 0, "warps": 0}, "cannot be launched"),
        ({"error": "expected a ';'"}, "does not compile: expected a ';'"),
    ],
)
def test_each_planted_overrun_is_one_violation(planted, message):
    (line,) = rules.violations([GOOD._replace(**planted)], LIMITS_OF_TEST)
    assert line.startswith("softmax:forward[N=4096], sm_80: ")
    assert message in line


def test_a_limit_is_for_its_kernels_and_architectures():
    assert rules.violations([GOOD._replace(arch=90, registers=41)], LIMITS_OF_TEST) == []
    assert rules.violations([GOOD._replace(kernel="decode:split[]", registers=41, wide_loads=0)], LIMITS_OF_TEST) == []


def test_a_spill_in_the_text_reaches_the_gate():
    function = sass.parse(listing("STL [R1], R4", "LDL R4, [R1]", "EXIT", usage="REG:32 STACK:8 SHARED:0"), 80)[
        "kernel"
    ]
    figures = compiling.figures(Instance("softmax.cu", "kernel"), 80, function)
    found = rules.violations([figures], LIMITS_OF_TEST[:2])
    assert [line.partition("sm_80: ")[2].split(" (")[0] for line in found] == ["stack 8 > 0", "spills 2 > 0"]


def test_loads_and_copies_in_the_text_reach_the_table():
    lines = ("LDSM.16.M88.4 R4, [R2]", "LDSM.16.MT88.4 R8, [R2]", "LDGSTS.E.128 [R1], [R2.64], P0", "EXIT")
    figures = compiling.figures(Instance("a.cu", "kernel"), 80, sass.parse(listing(*lines), 80)["kernel"])
    assert (figures.matrix_loads, figures.transposed_loads) == (2, 1)
    assert (figures.async_copies, figures.zero_filled_copies) == (1, 1)
    head, _, row = (line.split("|") for line in tables.resource_table([figures]).splitlines())
    shown = {name.strip(): cell.strip() for name, cell in zip(head, row, strict=True)}
    assert [shown[name] for name in ("LDSM", "LDSM.T", "LDGSTS", "zero-filled")] == ["2", "1", "1", "1"]


def test_a_limit_that_nothing_meets_and_a_source_that_nothing_compiles_are_violations():
    assert rules.idle_limits([GOOD], LIMITS_OF_TEST) == []
    (line,) = rules.idle_limits([GOOD._replace(arch=90)], LIMITS_OF_TEST)
    assert "registers" in line and "full occupancy" in line
    (line,) = rules.sources_left_out(["a.cu", "ladder/b.cu"], ["a.cu"])
    assert line.startswith("ladder/b.cu:")


def test_the_record_is_rewritten_and_the_limits_are_not(tmp_path):
    path = tmp_path / "budget.json"
    budget = {"limits": LIMITS_OF_TEST, "compared": [], "measured": {"gone:kernel[]": {"80": [1, 2, 3]}}}
    path.write_text(json.dumps(budget))
    assert rules.changes([GOOD], rules.read_budget(path)) == []  # new, not changed
    rules.write_budget(rules.updated(rules.read_budget(path), [GOOD], everything=True), path)
    again = rules.read_budget(path)
    assert again["limits"] == LIMITS_OF_TEST
    assert again["measured"] == {GOOD.kernel: {"80": [32, 64, 0]}}
    assert rules.changes([GOOD._replace(registers=40)], again) == [f"{GOOD.kernel}, sm_80: registers 32 -> 40"]
    # A run over some kernels keeps the record of the others.
    assert rules.updated(budget, [GOOD], everything=False)["measured"].keys() == {"gone:kernel[]", GOOD.kernel}


@pytest.mark.parametrize(
    ("limit", "message"),
    [
        ({"kernel": "", "figure": "registres", "at_most": 0, "reason": "r"}, "figure 'registres' is unknown"),
        ({"kernel": "", "figure": "stack", "at_most": 0}, "no reason"),
        ({"kernel": "", "figure": "stack", "reason": "r"}, "one of at_most, at_least, exactly"),
        ({"kernel": "", "figure": "stack", "most": 0, "reason": "r"}, "unknown most"),
    ],
)
def test_a_wrong_limit_is_named(tmp_path, limit, message):
    path = tmp_path / "budget.json"
    path.write_text(json.dumps({"limits": [limit], "measured": {}}))
    with pytest.raises(ValueError, match=message):
        rules.read_budget(path)


def test_the_budget_itself_is_well_formed_and_forbids_spills_everywhere():
    limits = rules.read_budget()["limits"]
    for figure in ("stack", "spills"):
        assert {"kernel": "", "figure": figure, "at_most": 0}.items() <= next(
            limit for limit in limits if limit["figure"] == figure
        ).items()


# --- tables ---------------------------------------------------------------------------------------------------------


def test_tables_say_what_failed_and_set_triton_below():
    broken = GOOD._replace(arch=90, error="expected a ';'")
    table = tables.resource_table([GOOD, broken])
    assert len(table.splitlines()) == 4
    assert "does not compile" in table.splitlines()[3]
    triton = ["38", "0", "", "", "", "", "", "", "", "", "16.60"]
    row = {"title": "softmax", "kernel": "^softmax:", "arch": 80, "peer": "Triton", "triton": triton}
    lines = tables.comparison_table([GOOD, broken], [row]).splitlines()
    assert [line.split("|")[2].strip() for line in lines[2:]] == ["minilm", "Triton"]
