"""Programs are read from their text, against programs that are known by construction."""

import pytest

from mmjax.plan import hlo
from tests.helpers.programs import LOOP, body, loop, module


@pytest.mark.parametrize(
    ("text", "dims", "stored", "space"),
    [
        ("f32[]", (), 4, 0),
        ("bf16[3,5]{1,0}", (3, 5), 30, 0),
        ("f32[3,5]{1,0:T(8,128)}", (3, 5), 8 * 128 * 4, 0),
        ("f32[3,5]{0,1:T(8,128)}", (3, 5), 8 * 128 * 4, 0),
        ("bf16[12,128,197,768]{3,1,2,0:T(8,128)(2,1)}", (12, 128, 197, 768), 12 * 128 * 197 * 768 * 2, 0),
        ("bf16[128,197,768]{2,1,0:T(8,128)(2,1)S(1)}", (128, 197, 768), 128 * 200 * 768 * 2, 1),
        ("f32[768]{0:T(1024)S(1)}", (768,), 4096, 1),
        ("f32[]{:T(128)}", (), 512, 0),
        ("pred[7]{0}", (7,), 7, 0),
        ("s4[8]{0}", (8,), 4, 0),
        ("f8e4m3fn[8]{0}", (8,), 8, 0),
        ("token[]", (), 0, 0),
    ],
)
def test_shapes_are_read_with_their_padding(text, dims, stored, space):
    read = module(f"ROOT %x = {text} parameter(0)").computations["main"].root.shape
    assert (read.dims, read.stored_bytes, read.space) == (dims, stored, space)


def test_tuples_operands_and_comments_are_read():
    root = module(
        """%a = f32[2]{0} parameter(0)
        %t = ((f32[2]{0}, /*index=1*/s32[]), f32[2]{0:T(128)}) custom-call(%a), custom_call_target="x"
        ROOT %y = f32[2]{0} add(%a, %t#1), metadata={op_name="jit(f)/add"}"""
    ).computations["main"]
    shape = root.instructions["t"].shape
    assert [leaf.dims for leaf in hlo.leaves(shape)] == [(2,), (), (2,)] and len(shape[0]) == 2
    assert root.root.operands == (("a", None), ("t", 1)) and root.root.op_name == "jit(f)/add"
    assert root.shape_of(("t", 1)).elements == 128


def test_turns_of_loops():
    assert module(loop(), LOOP, body("")).executions()[0]["body"] == 12
    assert module(loop(start=2), LOOP, body("")).executions()[0]["body"] == 10
    known = ', backend_config={"known_trip_count":{"n":"5"}}'
    assert module(loop(attributes=known), LOOP, body("")).executions()[0]["body"] == 5
    until = (LOOP[0], LOOP[1].replace("constant(12)", "custom-call(%i)"))
    control, _, unknown = module(loop(), until, body("")).executions()
    assert control["body"] == 1 and unknown == ["w"]
