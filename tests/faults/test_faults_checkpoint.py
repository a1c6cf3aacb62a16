"""A checkpoint that is not whole, or not of this run, is not continued; the one before it is, and the log says why."""

from __future__ import annotations

import json
import signal
from collections.abc import Callable
from pathlib import Path

import pytest
from faults_harness import Run, assert_same_outcome, killing
from tiny_training import tiny_policy

from nested_reft.rollouts.policy import save_policy
from nested_reft.training import loop as training_loop


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def flip_a_bit(path: Path) -> None:
    """In the last weight: the file is still a valid one of its format, and only the checksum can tell."""
    content = bytearray(path.read_bytes())
    content[-2] ^= 1
    path.write_bytes(bytes(content))


def remove_the_seal(path: Path) -> None:
    path.with_suffix(".json").unlink()


def damage_the_seal(path: Path) -> None:
    path.with_suffix(".json").write_text('{"key":', encoding="utf-8")


def reseal(**change: object) -> Callable[[Path], None]:
    def damage(path: Path) -> None:
        seal = path.with_suffix(".json")
        seal.write_text(json.dumps(json.loads(seal.read_text(encoding="utf-8")) | change), encoding="utf-8")

    return damage


DAMAGES: dict[str, tuple[Callable[[Path], None], str]] = {
    "truncated": (truncate, "it is damaged (its checksum differs)"),
    "one bit flipped": (flip_a_bit, "it is damaged (its checksum differs)"),
    "removed": (Path.unlink, ""),
    "without its checksum": (remove_the_seal, "it was cut off while it was written"),
    "with a damaged checksum": (damage_the_seal, "{seal} is damaged"),
    "of other settings": (reseal(key="0123456789abcdef"), "it belongs to other settings"),
    "of other sources": (reseal(code="0123456789abcdef"), "the source code that training depends on has changed since"),
}


@pytest.fixture
def cut_off(run: Run) -> Run:
    """The run, killed after its third checkpoint: steps 6 and 9 are kept."""
    assert run.call(killing(training_loop, "save_checkpoint", 3, after=True)).code == -signal.SIGKILL
    assert [path.name for path in steps_of(run)] == ["step00000006.safetensors", "step00000009.safetensors"]
    return run


def steps_of(run: Run) -> list[Path]:
    return sorted(run.checkpoints.glob("step*.safetensors"))


@pytest.mark.parametrize("good", [1, 0])
@pytest.mark.parametrize("name", DAMAGES)
def test_a_bad_checkpoint_is_not_used_but_the_one_before_it(
    cut_off: Run, uninterrupted: Run, name: str, good: int
) -> None:
    """With none that is good, the run starts over and says so."""
    damage, reason = DAMAGES[name]
    bad = steps_of(cut_off)[good:]
    for path in bad:
        damage(path)
    again = cut_off.call()
    assert again.code == 0, again.output
    for path in bad if reason else ():
        assert f"{path} is not used: {reason.format(seal=path.with_suffix('.json').name)}" in again.output
    start = "continues after step 6" if good else "starts at step 1: no checkpoint to continue from"
    assert f"{start}\n" in again.output
    assert_same_outcome(cut_off, uninterrupted)


def test_a_bad_checkpoint_of_a_later_step_is_gone_with_the_next_save(cut_off: Run) -> None:
    """Otherwise it would count as one of the two that are kept."""
    flip_a_bit(steps_of(cut_off)[-1])
    cut_off.call(killing(training_loop, "save_checkpoint", 1))
    late = cut_off.checkpoints / "step00000011.safetensors"
    steps_of(cut_off)[-1].rename(late)
    cut_off.call(killing(training_loop, "save_checkpoint", 1, after=True))
    assert [path.name for path in steps_of(cut_off)] == ["step00000006.safetensors", "step00000009.safetensors"]


def test_another_setting_or_another_model_starts_over_and_leaves_the_checkpoints(cut_off: Run) -> None:
    other = Run.prepared(cut_off.folder, learning_rate=0.001)
    assert "starts at step 1: no checkpoint to continue from\n" in other.call().output
    assert len(steps_of(cut_off)) == 2
    save_policy(tiny_policy(feed_forward=48), cut_off.folder / "model")  # by hand: the settings are the same
    ended = cut_off.call()
    assert ended.code == 0, ended.output
    assert ended.output.count("its parameters are not those of this model") == 2
    assert "starts at step 1" in ended.output
