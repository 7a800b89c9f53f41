# SPDX-License-Identifier: Apache-2.0
r"""What docs/data.md promises of `exact`: it ignores case, spacing and LaTeX markup, and nothing else."""

import sys

import pytest

from reasongrm_nemo.errors import UserError
from reasongrm_nemo.judge import load_equivalence
from reasongrm_nemo.judge.open_answers import exact, number, numeric

SAME = [
    ("Paris", "paris"),
    ("the  cat", "The cat."),
    ('"yes"', "yes"),
    ("(1, 2)", "(1,2)"),
    ("x = 5", "x=5"),
    ("5 %", r"5\%"),
    (r"\$5", "$5"),
    (r"$\$5$", "$5"),
    (r"\(x+1\)", "$x + 1$"),
    (r"\[x\]", "$$x$$"),
    (r"\left( 1, 2 \right)", "(1,2)"),
    (r"\Bigl(1,2\Bigr)", "(1,2)"),
    (r"\dfrac{1}{2}", r"\frac{1}{2}"),
    (r"\frac12", r"\tfrac{1}{2}"),
    (r"\frac ab", r"\frac{a}{b}"),
    (r"\text{yes}", "yes"),
    (r"\textbf{\text{(A)}}", "(A)"),
    (r"\boxed{7}", "7"),
    (r"\operatorname{lcm}(4,6)", r"\mathrm{lcm}(4, 6)"),
    ("x^{2}", "x^2"),
    ("x²", "x^2"),
    ("a_{1}", "a_1"),
    (r"\sqrt2", r"\sqrt{2}"),
    (r"90^\circ", "90°"),
    (r"90^{\circ}", "90°"),
    (r"5\,\text{cm}", "5 cm"),
    (r"1 \quad 2", "1 2"),
    (r"10{,}000", "10,000"),
    ("\N{MINUS SIGN}3", "-3"),
]
OTHER = [
    ("1/2", "0.5"),  # `exact` does not calculate
    (r"\frac{1}{2}", "1/2"),
    ("12", "1 2"),
    ("a b", "ab"),
    ("1, 234", "1,234"),  # two numbers, and one
    ("3. 5", "3.5"),
    ("x^{12}", "x^12"),  # TeX's x^1 2
    ("10²", "102"),
    ("$5", "5"),
    ("-3", "3"),
]


@pytest.mark.parametrize(("answer", "reference"), SAME)
def test_meaningless_differences_are_ignored(answer, reference):
    assert exact(answer, reference) and exact(reference, answer) and numeric(answer, reference)


@pytest.mark.parametrize(("answer", "reference"), OTHER)
def test_meaningful_differences_are_kept(answer, reference):
    assert not exact(answer, reference) and not exact(reference, answer)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        (r"\frac12", 0.5),
        (r"$10{,}000$", 1e4),
        (r"2\times 10^{3}", 2e3),
        ("10²", 100.0),
        (r"-\dfrac{3}{4}", -0.75),
    ],
)
def test_numbers_are_read_through_latex_markup(text, value):
    assert number(text) == pytest.approx(value)


@pytest.mark.parametrize(
    ("answer", "reference", "same"),
    [
        (r"2\sqrt{3}", r"\sqrt{12}", True),
        ("x^2+2x+1", "(x+1)^2", True),
        (r"\{1,2\}", r"\{2,1\}", True),
        (r"\pi/2", r"\frac{\pi}{2}", True),
        ("x=5", "5", True),
        (r"\frac{1}{2}", "0.5", True),
        (r"\text{a cat}", "a cat", True),
        ("(1,2)", "(2,1)", False),
        ("3", "4", False),
        ("the cat", "the dog", False),
        (r"\frac{1}{", "0.5", False),
    ],
)
def test_math_verify_compares_expressions(answer, reference, same):
    assert load_equivalence("math_verify")(answer, reference) is same


def test_without_its_package_math_verify_is_refused_in_one_sentence(monkeypatch):
    monkeypatch.setitem(sys.modules, "math_verify", None)
    with pytest.raises(
        UserError, match=r"needs the package math-verify .* install reasongrm-nemo\[math\], or"
    ):
        load_equivalence("math_verify")
