"""Counting what a kernel issues, on machine code written by hand."""

from collections import Counter

import pytest

from benchmarks import machine_code

# A loop of three instructions inside one of seven, then the padding of every kernel.
CODE = """
        /*0000*/                   MOV R1, c[0x0][0x28] ;   /* 0x00000a0000017a02 */
        /*0010*/                   LDG.E.128 R4, [R2.64] ;
        /*0020*/              @!P0 HMMA.16816.F32.BF16 R4, R8, R10, R4 ;
        /*0030*/                   IADD3 R0, R0, 0x1, RZ ;
        /*0040*/              @!P1 BRA 0x20 ;
        /*0050*/                   STG.E [R2.64], R4 ;
        /*0060*/               @P2 EXIT ;
        /*0070*/              @!P3 BRA 0x10 ;
        /*0080*/                   EXIT ;
        /*0090*/                   BRA 0x90;
        /*00a0*/                   NOP;
"""


def test_the_padding_is_no_code():
    assert [line.address for line in machine_code.instructions(CODE)][-1] == 0x80
    assert len(machine_code.instructions(CODE)) == 9


def test_loops_turn_by_their_depth():
    code = machine_code.instructions(CODE)
    assert machine_code.loops(code) == [
        machine_code.Loop(0x20, 0x40),
        machine_code.Loop(0x10, 0x70),
    ]
    names = machine_code.issued(code, [5, 2])
    assert names["HMMA.16816.F32.BF16"] == 10
    assert names["LDG.E.128"] == names["STG.E"] == 5
    assert names["MOV"] == 1
    assert names.total() == 2 + 5 * 4 + 10 * 3


def test_a_loop_that_nothing_is_known_of_is_not_guessed():
    with pytest.raises(ValueError, match="how often they turn"):
        machine_code.issued(machine_code.instructions(CODE), [])


def test_multiply_adds_of_a_warp():
    names = Counter({"HMMA.16816.F32.BF16": 3, "HGMMA.64x32x16.F32": 2, "FFMA": 100})
    assert machine_code.multiply_adds(names) == 3 * 16 * 8 * 16 + 2 * 64 * 32 * 16 // 4


def test_turns_come_from_the_arguments():
    arguments = {"tiles_per_split": 5, "dim": 50, "BLOCK_D": 16}
    assert machine_code.turns_of(arguments) == [5, 4]
    assert machine_code.turns_of({"regions": 3}) == []


def test_issue_time_by_hand():
    """One instruction in every lane of a full GPU for one cycle: 4 x 132 warps, 1.98 GHz."""
    assert machine_code.issue_microseconds(Counter(A=1980), 528) == pytest.approx(1.0)
