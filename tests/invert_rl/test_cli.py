"""The command line: every command has help, imports only what it needs, and says what is wrong."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from invert_rl.cli import COMMANDS, main


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help(command, capsys):
    with pytest.raises(SystemExit) as stop:
        main([command, "--help"])
    assert stop.value.code == 0
    assert f"invert-rl {command}" in capsys.readouterr().out


def test_doctor_names_pipeline_decoder_and_packages(capsys):
    assert main(["doctor", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["problems"] == []
    assert found["packages"]["trl"].startswith("1.16")
    assert "PyAV" in found["decoder"]


def test_a_pipeline_that_is_missing_is_a_problem(capsys):
    assert main(["doctor", "--pipeline", "en_core_web_xx"]) == 1
    assert "en_core_web_xx" in capsys.readouterr().out


def test_bad_input_is_one_line_and_exit_code_one(tmp_path, capsys):
    data = tmp_path / "rows.jsonl"
    data.write_text("{\n")
    assert main(["check-videos", str(data), "--videos", str(tmp_path)]) != 0
    assert "rows.jsonl:1" in capsys.readouterr().err


def imports_torch(arguments: list[str]) -> bool:
    code = (
        "import sys; from invert_rl.cli import main\ntry: main(sys.argv[1:])\nfinally: sys.exit('torch' in sys.modules)"
    )
    return bool(subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True).returncode)


@pytest.mark.parametrize("arguments", [[], *([command, "--help"] for command in COMMANDS)], ids=" ".join)
def test_help_does_not_import_torch(arguments):
    assert not imports_torch(arguments)


def test_descriptions_that_are_there_need_no_torch(tmp_path):
    own = tmp_path / "own.json"
    own.write_text('{"run": {"key": "fast legs", "complete": "someone runs"}}')
    output = tmp_path / "d.json"
    assert not imports_torch(["describe-actions", "--classes", "run", "--from", str(own), "--output", str(output)])
    assert output.is_file()
