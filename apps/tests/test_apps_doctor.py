"""The doctor finds this installation sound, and tells what is not."""

import pytest

from kinema.doctor import all_checks, run_doctor


def test_this_installation_is_sound(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    assert run_doctor() == 0
    lines = capsys.readouterr().out.splitlines()
    assert all(line.startswith(("ok   ", "warn ")) for line in lines)
    subjects = {line[5:].partition(":")[0] for line in lines}
    assert subjects >= {"python", "packages", "cpu", "torchvision", "video", "mlflow", "vae components"}
    assert list(tmp_path.iterdir()) == []


def test_a_store_that_is_away_is_a_warning_without_password(monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://user:secret@127.0.0.1:9")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    (found,) = [check for check in all_checks() if check.subject == "mlflow"]
    assert found.state == "warn" and "cannot be reached" in found.finding
    assert "secret" not in found.finding


def test_a_clash_of_names_is_a_failure(tmp_path, monkeypatch, capsys):
    from kinema_core import refresh

    for dist in ("acme-one", "acme-two"):
        folder = tmp_path / f"{dist.replace('-', '_')}-1.0.dist-info"
        folder.mkdir()
        (folder / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {dist}\nVersion: 1.0\n")
        (folder / "entry_points.txt").write_text(f"[kinema.vae]\nshared = {dist.replace('-', '_')}:VAE\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    refresh()
    try:
        assert run_doctor() == 1
        assert "fail vae components: vae component 'shared' is claimed by acme-one and acme-two" in " ".join(
            capsys.readouterr().out.split()
        )
    finally:
        monkeypatch.undo()
        refresh()


@pytest.fixture(autouse=True)
def wide(monkeypatch):
    monkeypatch.setenv("COLUMNS", "400")
