"""Which bits does each recipe give each matrix, what rounds them, and which recipes are refused?"""

from __future__ import annotations

import time
from pathlib import Path

import pytest
from tramontane.export.formats.tensor_names import parameters
from tramontane.export.known_models import GEOMETRIES
from tramontane.graphs.quantization.matrix_schemes import MatrixSchemes, Role
from tramontane.graphs.quantization.methods.all_methods import METHODS, find_method
from tramontane.graphs.quantization.recipes import all_recipes
from tramontane.graphs.quantization.recipes.all_recipes import (
    find_recipe,
    open_recipe,
    recipe_names,
    recipe_of_bits,
)
from tramontane.graphs.quantization.recipes.read import parse_recipe, read_recipe
from tramontane.graphs.quantization.recipes.recipe import Recipe
from tramontane.graphs.quantization.scheme import Scheme
from tramontane.graphs.targets.all_targets import TARGETS, find_target
from tramontane.graphs.targets.target import Target
from tramontane.runtime.errors import ConfigError, GraphError

BLOCKS = Target.blocks
QUERY, DOWN = "layers.0.attention.query.weight", "layers.1.mlp.down.weight"
NAMES = [n for n, s in parameters(GEOMETRIES["stdlib-5m"]).items() if len(s) == 2]


def own(*lines: str, before: str = "") -> Recipe:
    """A recipe of one's own with these lines."""
    text = f"{before}\n[matrices]\n" + "\n".join(lines) + "\n"
    return parse_recipe(text, name="my", path="my.toml")


def bits_of(recipe: Recipe, name: str, *roles: Role) -> int:
    scheme = MatrixSchemes(recipe, block=128).scheme_for(name, roles or (Role.LAYER,))
    return 32 if scheme is None else scheme.bits


def test_every_file_of_the_folder_is_a_recipe_of_the_list() -> None:
    assert {path.stem for path in all_recipes._FOLDER.glob("*.toml")} == set(recipe_names())
    for name in recipe_names():
        found = find_recipe(name)
        assert found.name == name
        assert find_recipe(found) is found
        assert found.finer in (None, *recipe_names())
        found.refuse_unfit(NAMES)
        described = find_recipe(name).text.splitlines()[0]
        assert described.startswith("# "), "tramontane recipes prints it"


def test_only_one_recipe_of_ours_is_float() -> None:
    assert [name for name in recipe_names() if not find_recipe(name).is_quantized] == ["fp32"]


@pytest.mark.parametrize(
    ("quant", "bits"),
    [
        ("fp32", (32, 32, 32)),
        ("int8", (8, 8, 8)),
        ("int4", (4, 4, 8)),
        ("int4-rtn", (4, 4, 8)),
        ("int8-dynamic", (8, 8, 8)),
    ],
)
@pytest.mark.parametrize("block", BLOCKS)
def test_head_keeps_8_bits_and_all_have_the_block_that_was_asked_for(
    quant: str, bits: tuple[int, ...], block: int
) -> None:
    schemes = MatrixSchemes(find_recipe(quant), block=block)
    each = [
        schemes.scheme_for(name, (role,))
        for name, role in (
            (QUERY, Role.LAYER),
            ("anything", Role.EMBEDDING),
            ("whatever", Role.HEAD),
        )
    ]
    assert tuple(32 if scheme is None else scheme.bits for scheme in each) == bits
    assert {scheme.block for scheme in each if scheme is not None} <= {block}


def test_only_a_scheme_with_one_code_for_zero_needs_no_zero_points() -> None:
    assert Scheme(bits=8, block=32).is_symmetric
    assert not Scheme(bits=4, block=32).is_symmetric


def test_of_several_readers_the_one_of_most_bits_decides() -> None:
    int4 = find_recipe("int4")
    assert bits_of(int4, "w", Role.EMBEDDING) == 4
    for roles in ([Role.EMBEDDING, Role.HEAD], [Role.HEAD, Role.EMBEDDING]):
        assert bits_of(int4, "w", *roles) == 8


def test_first_pattern_that_matches_decides() -> None:
    recipe = own(
        '"layers.0.attention.*" = { bits = 8, block = 32 }',
        '"layers.*.mlp.down" = { bits = 32 }',
        '"*" = { bits = 4 }',
    )
    recipe.refuse_unfit(NAMES)
    schemes = MatrixSchemes(recipe, block=64)
    assert schemes.scheme_for(QUERY, [Role.LAYER]) == Scheme(bits=8, block=32)
    assert schemes.scheme_for(DOWN, [Role.AFTER_PRODUCT]) is None
    assert schemes.scheme_for("layers.1.mlp.up.weight", [Role.LAYER]) == Scheme(bits=4, block=64)
    assert recipe.bits == (4, 8, 32)
    assert recipe.fewest_bits == 4
    assert recipe.fixed_blocks == (32,)


def test_stacked_matrix_has_the_scheme_of_its_parts_and_parts_that_differ_are_no_stack() -> None:
    stack, parts = (
        "layers.0.attention.query_key_value.weight",
        [f"layers.0.attention.{role}.weight" for role in ("query", "key", "value")],
    )
    alike = own('"layers.*.attention.*" = { bits = 8 }', '"*" = { bits = 4 }')
    assert alike.is_uniform(parts)
    assert bits_of(alike, stack) == 8
    unlike = own('"layers.*.attention.value" = { bits = 8 }', '"*" = { bits = 4 }')
    assert not unlike.is_uniform(parts)
    with pytest.raises(GraphError, match=f"{stack}: --recipe my.toml stores .* differently"):
        bits_of(unlike, stack)


def test_only_a_recipe_that_observes_activations_or_an_int8_cache_is_calibrated() -> None:
    found = {name for name in recipe_names() if find_recipe(name).is_calibrated("float32")}
    assert found == {"int4", "int4-small", "int8-smooth", "int8-small", "int8-dynamic"}
    assert all(find_recipe(name).is_calibrated("int8") for name in recipe_names())


def test_another_exporter_s_graph_is_held_to_the_recipe_of_its_bits() -> None:
    found = {bits: recipe_of_bits(bits).name for bits in (32, 16, 8, 4, 2)}
    assert found == {32: "fp32", 16: "int4-rtn", 8: "int8", 4: "int4-rtn", 2: "int4-rtn"}


def test_bounds_of_several_methods_are_the_largest() -> None:
    nearest, gptq = (find_method(name).weight_errors for name in ("round_to_nearest", "gptq"))
    assert find_recipe("int8").weight_errors == nearest
    assert find_recipe("fp32").weight_errors == nearest
    assert find_recipe("int4").weight_errors == gptq
    assert all(gptq[bits] >= nearest[bits] for bits in gptq)


@pytest.mark.parametrize("quant", ["int3", "INT8"])
def test_unknown_quant_is_refused_by_name(quant: str) -> None:
    message = f"--quant {quant}: unknown; expected one of fp32, int8, int8-smooth, int8-small, int4, int4-small, int4-rtn, int4-rtn-small, int8-dynamic, or"
    with pytest.raises(GraphError, match=message):
        find_recipe(quant)


@pytest.mark.parametrize("block", [24, 0, 512])
@pytest.mark.parametrize("target", TARGETS)
def test_block_that_kernels_do_not_take_is_refused_by_name(target: str, block: int) -> None:
    with pytest.raises(
        GraphError, match=rf"--block {block}: expected one of 16, 32, 64, 128, 256$"
    ):
        find_target(target).refuse_block(block)


def test_name_of_one_s_own_follows_what_the_file_says_and_not_where_it_lies(
    tmp_path: Path,
) -> None:
    texts = {
        "a/my.toml": '[matrices]\n"*" = { bits = 4 }\n',
        "b/my.toml": '# The same.\n[matrices]\n"*" = { bits = 4, scales = "float32" }\n',
        "c/my.toml": '[matrices]\n"*" = { bits = 8 }\n',
        "int4.toml": '[matrices]\n"*" = { bits = 4 }\n',
    }
    for name, text in texts.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    same, again, other, like_ours = (open_recipe(tmp_path / name) for name in texts)
    assert same.name == again.name != other.name
    assert same.name.startswith("my-")
    assert same.content() == again.content()
    assert like_ours.name != "int4"
    assert like_ours.option == f"--recipe {tmp_path}/int4.toml"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", r'my.toml: no table of patterns, expected \[matrices\] and lines such as "\*" ='),
        ("[matrices]\n", r"my.toml:1: \"matrices\": found {}, expected \[matrices\] and lines"),
        ("[matrices\n", r"my.toml: is no TOML \(.*line 1.*\), expected lines such as"),
        (
            '[matrices]\n"*" = { bits = 4 }\n"*" = { bits = 8 }\n',
            r"my.toml: is no TOML \(.*line 3",
        ),
        ('finer = 8\n[matrices]\n"*" = {bits = 4}', 'my.toml:1: "finer": found 8, expected a rec'),
        (
            'better = "int8"\n[matrices]\n"*" = {bits = 4}',
            "my.toml:1: .*unknown key 'better', exp",
        ),
        (
            '[matrices]\n"head" = { bits = 8 }\n"*" = { bit = 4 }',
            r"my.toml:3: \"\*\": unknown key 'bit', expected one of bits, block, method, scales; c",
        ),
        ('[matrices]\n\n"*" = 4', r"my.toml:3: \"\*\": found 4, expected a table, such as"),
        ('[matrices]\n"*" = { block = 32 }', r"my.toml:2: .*: no bits, expected bits, such as"),
        ('[matrices]\n"*" = { bits = 5 }', "my.toml:2: .*: bits = 5, expected one of 2, 4, 8, 32"),
        ('[matrices]\n"*" = { bits = "4" }', "my.toml:2: .*: bits = '4', expected one of 2"),
        (
            '[matrices]\n"*" = { bits = 4, block = 24 }',
            "my.toml:2: .*: block = 24, expected 16, 32, 64, 128 or 256, or no block",
        ),
        (
            '[matrices]\n"*" = { bits = 4, method = "awq" }',
            f"my.toml:2: .*: method = 'awq', expected one of {', '.join(METHODS)}; correct it$",
        ),
        (
            '[matrices]\n"*" = { bits = 4, scales = "int4" }',
            "my.toml:2: .*: scales = 'int4', expected one of float32",
        ),
        (
            '[matrices]\n"*" = { bits = 32, block = 32 }',
            "my.toml:2: .*: block beside bits = 32, which is float, expected bits alone",
        ),
        (
            'activations = "none"\n[matrices]\n"*" = { bits = 8 }',
            "my.toml:1: \"activations\": activations = 'none', expected one of per_block, per_po",
        ),
        (
            '[matrices]\n"layers.0.*" = { bits = 8, method = "smooth_then_round" }\n'
            '"*" = { bits = 4, method = "gptq" }',
            "my.toml: methods smooth_then_round and gptq, expected either",
        ),
        ("a = " + "[" * 900 + "\n" + "[" * 900, r"my.toml: is no TOML \(maximum recursion depth"),
        (
            f"[matrices]\n'*' = {{ bits = {'9' * 900} }}",
            "my.toml:2: .*: bits = 9999.*, expected one",
        ),
        (f"[matrices]\n'*' = {{ block = 0x{'f' * 900} }}", "my.toml:2: .*: no bits"),
        ("[matrices]\n'*' = { bits = [4] }", r"my.toml:2: .*: bits = \[4\], expected one"),
        ("[matrices]\n'*' = { bits = 4, method = [] }", r"my.toml:2: .*: method = \[\], expected"),
        ("[matrices]\n'*' = { bits = 4, scales = {} }", r"my.toml:2: .*: scales = {}, expected"),
        (f"a{'.a' * 10**5} = 1", "my.toml: 1 lines, the longest of 200005 characters, expected"),
        (
            "a = 1\n" * 5000,
            "my.toml: 5000 lines, .*expected at most 4096 of 1000; let a pattern match",
        ),
        ("[matrices.head]\nbits = 7", 'my.toml:1: "head": bits = 7, expected one of 2, 4, 8, 32'),
    ],
)
def test_what_is_no_recipe_is_refused_with_its_line(text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        parse_recipe(text, name="my", path="my.toml")


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (
            ['"layers.*.mlp.dwon" = { bits = 8 }', '"*" = { bits = 4 }'],
            r'my.toml:3: "layers.\*.mlp.dwon": matches no matrix; known are embedding, '
            r"layers.\*.attention.query, .*head; correct",
        ),
        (
            ['"*" = { bits = 4 }', '"head" = { bits = 8 }'],
            'my.toml:4: "head": an earlier line decides on all that it matches, such as head; cor',
        ),
        (
            ['"layers.*" = { bits = 4 }', '"head" = { bits = 8 }'],
            "--recipe my.toml: no pattern matches the matrix embedding, expected one; add",
        ),
        (
            ['"*" = { bits = 4, method = "gptq" }'],
            r'my.toml:3: "\*": gptq rounds matrices of layers alone, found embedding; give it a',
        ),
    ],
)
def test_what_does_not_fit_the_model_is_refused_with_its_line(
    lines: list[str], message: str
) -> None:
    with pytest.raises(GraphError, match=message):
        own(*lines).refuse_unfit(NAMES)


def test_four_bits_by_position_are_refused_in_layers() -> None:
    recipe = own('"*" = { bits = 4 }', before='activations = "per_position"')
    with pytest.raises(GraphError, match=r'my.toml:3: "\*": 4 bits, expected 8 or 32 where'):
        recipe.refuse_unfit(NAMES)


def test_file_that_cannot_be_read_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="--recipe .*nowhere.toml: .*No such file"):
        read_recipe(tmp_path / "nowhere.toml")


def test_bits_that_a_target_has_no_kernels_for_are_refused_with_the_line() -> None:
    recipe = own('"layers.*.mlp.*" = { bits = 4 }', '"*" = { bits = 8 }')
    find_target("ort").refuse_recipe(recipe)
    with pytest.raises(GraphError, match="--target web --recipe my.toml: browsers' WASM has no"):
        find_target("web").refuse_recipe(recipe)


@pytest.mark.parametrize(
    "text",
    [
        'finer = """\n' + "[." * 400 + 'zzz\n"""\n[matrices]\n"zzz" = { bits = 5 }',
        "[matrices]\n"
        + "".join(f'"{"x" * 900}{number}" = {{ bits = 4 }}\n' for number in range(4000))
        + '"zzz" = { bits = 5 }',
    ],
    ids=["brackets", "many long lines"],
)
def test_lines_are_found_in_little_time(text: str) -> None:
    line = 5 if text.startswith("finer") else 4002
    start = time.perf_counter()
    with pytest.raises(ConfigError, match=f'my.toml:{line}: "zzz": bits = 5, expected one of'):
        parse_recipe(text, name="my", path="my.toml")
    assert time.perf_counter() - start < 10


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ('[matrices]\n[ "matrices" . "*" ]\nbits = 5', 2),
        ("[matrices]\n'*'={ bits = 5 }", 2),
        ("[matrices]\n  head\t= { bits = 5 } # head", 2),
        ('[matrices."layers.*.mlp.[gu]*"]\nbits = 5', 1),
    ],
)
def test_line_of_a_key_is_named_however_it_is_written(text: str, line: int) -> None:
    with pytest.raises(ConfigError, match=f"my.toml:{line}: .*: bits = 5, expected one of"):
        parse_recipe(text, name="my", path="my.toml")
