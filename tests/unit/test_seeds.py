# SPDX-License-Identifier: Apache-2.0
import itertools

from hypothesis import given
from hypothesis import strategies as st

from reasongrm_nemo.data.seeds import derive_seed


def test_seeds_never_change():
    # A change here silently changes every run: orders, splits, random choices, requests.
    assert derive_seed(0, "order", "p") == 3472723931824003398
    assert derive_seed(17, "request", "täst", 3) == 1048079912608050958


@given(st.integers(), st.text(), st.text(), st.integers(0, 2**31))
def test_seeds_fit_63_bits_and_repeat(run, purpose, item, index):
    seed = derive_seed(run, purpose, item, index)
    assert 0 <= seed < 2**63
    assert seed == derive_seed(run, purpose, item, index)


def test_every_part_counts():
    parts = itertools.product((0, 1, -1), ("order", "split"), ("a", "b", "", "\ud800"), (0, 1, 10))
    seeds = [derive_seed(*part) for part in parts]
    assert len(set(seeds)) == len(seeds)
    assert derive_seed(1, "a", "1") != derive_seed(11, "a", "")


def test_the_low_bit_is_fair():
    ones = sum(derive_seed(0, "order", str(item)) & 1 for item in range(4000))
    assert abs(ones - 2000) < 160  # five standard deviations
