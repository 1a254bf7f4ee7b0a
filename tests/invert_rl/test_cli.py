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


def test_help_does_not_import_torch():
    code = "import sys; from invert_rl.cli import main\ntry: main([])\nfinally: sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True).returncode == 0
