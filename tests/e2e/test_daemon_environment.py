"""What a training gets from the world around it: its environment, its settings, and names with any letters."""

from __future__ import annotations

import json
import sys

import pytest
from daemon_harness import site

pytestmark = pytest.mark.e2e

SECRET = {"AWS_SECRET_ACCESS_KEY": "planted-secret", "NOTIFY_TOKEN": "planted-secret", "LD_PRELOAD_": "planted-secret"}


@pytest.fixture
def environment(still):
    """The environment that a training really had, of a daemon that has secrets and things to pass on."""
    still.extra_env = {**SECRET, "LD_LIBRARY_PATH": "/opt/cuda/lib", "WANDB_API_KEY": "passed", "TZ": "Asia/Shanghai"}
    still.tables["defaults"]["env_pass"] = ["LD_LIBRARY_PATH", "WANDB_API_KEY", "NOT_THERE"]
    still.tables["defaults"]["env"] = {"COMMON": "default", "COLOUR": "red"}
    still.write_config()
    still.start()
    still.train("truck", epochs=60, env={"COLOUR": "blue", "WANDB_PROJECT": "trucks"})
    still.wait("truck", "RUNNING")
    still.attempt("truck").wait_for_beat("start")
    return still, still.attempt("truck").env


def test_the_environment_is_built_from_an_allow_list(environment):
    """No secret of the daemon reaches a training, neither its process nor launch.json; ordinary things do."""
    server, env = environment
    assert "planted-secret" not in json.dumps(env)
    assert "planted-secret" not in (server.attempt("truck").directory / "launch.json").read_text()
    assert env["HOME"] == str(server.home)
    assert env["LANG"] == "C.UTF-8"
    assert env["TZ"] == "Asia/Shanghai"
    assert "PYTHONPATH" not in env


def test_env_pass_and_the_jobs_own_env_are_added(environment):
    """env_pass hands variables of the daemon on; [env] of the job wins over [defaults], key by key."""
    _, env = environment
    assert env["LD_LIBRARY_PATH"] == "/opt/cuda/lib"
    assert env["WANDB_API_KEY"] == "passed"
    assert "NOT_THERE" not in env
    assert (env["COMMON"], env["COLOUR"], env["WANDB_PROJECT"]) == ("default", "blue", "trucks")


def test_markers_devices_and_offline_settings(environment):
    """Our processes are marked; GPUs count in bus order and a CPU job sees none; Ultralytics may not fetch."""
    server, env = environment
    attempt = server.attempt("truck").directory
    assert env["YOLO_SUPERVISOR_RUN"] == "truck@1"
    assert env["YOLO_SUPERVISOR_ATTEMPT"] == "1"
    assert env["YOLO_SUPERVISOR_ATTEMPT_DIR"] == str(attempt)
    assert env["YOLO_SUPERVISOR_TOKEN"] == str(json.loads((server.run_dir("truck") / "token").read_text())["token"])
    assert env["CUDA_DEVICE_ORDER"] == "PCI_BUS_ID"
    assert env["CUDA_VISIBLE_DEVICES"] == ""
    assert env["YOLO_OFFLINE"] == "1"
    assert env["YOLO_AUTOINSTALL"] == "0"
    assert env["PYTHONUNBUFFERED"] == "1"


def test_a_virtual_environment_comes_first_in_the_path(environment):
    """As after `activate`: its bin first, VIRTUAL_ENV set, no CONDA_PREFIX."""
    server, env = environment
    prefix = server.toy_python().parent.parent
    assert env["PATH"].split(":")[0] == str(prefix / "bin")
    assert "/usr/bin" in env["PATH"].split(":")
    assert env["VIRTUAL_ENV"] == str(prefix)
    assert "CONDA_PREFIX" not in env


def test_a_conda_environment_by_name_is_found_and_set(server):
    """`conda = "yolo"`: found below the owner's miniconda3 without conda; CONDA_PREFIX set, its bin first."""
    python = server.toy_python("conda home/miniconda3/envs/yolo")
    prefix = python.parent.parent
    (prefix / "pyvenv.cfg").unlink()
    (prefix / "conda-meta").mkdir()
    server.end()
    server.extra_env = {"CONDA_ENVS_PATH": str(prefix.parent)}
    server.start()
    server.drop("truck.toml", 'conda = "yolo"\ncommand = ["/usr/bin/sleep", "60"]\n')
    server.wait("truck", "RUNNING")
    env = server.attempt("truck").json("launch.json")["env"]
    assert env["CONDA_PREFIX"] == str(prefix)
    assert env["PATH"].split(":")[0] == str(prefix / "bin")


def test_the_owners_settings_are_copied_into_the_run(server):
    """settings.json of the owner, as it is at the start of each attempt; the owner's own file is never changed."""
    owners = server.home / ".config" / "Ultralytics" / "settings.json"
    owners.parent.mkdir(parents=True)
    owners.write_text('{"wandb": false, "datasets_dir": "/data"}')
    server.train("truck", "--signal-after KILL@2.1 --fault-once", epochs=3, settings={"wandb": True})
    server.wait("truck", "SUCCEEDED")
    launch = server.attempt("truck").json("launch.json")
    folder = server.run_dir("truck") / "settings"
    assert launch["env"]["YOLO_CONFIG_DIR"] == str(folder)
    assert json.loads((folder / "Ultralytics" / "settings.json").read_text())["datasets_dir"] == "/data"
    assert launch["train"]["settings"] == {"wandb": True}
    assert owners.read_text() == '{"wandb": false, "datasets_dir": "/data"}'


def test_gpu_count_port_and_run_dir_reach_a_command(server):
    """{python} {run_dir} {gpu_count} {port} are filled in; doubled braces stay braces."""
    script = "import sys, json; print(json.dumps(sys.argv[1:]))"
    words = ["{python}", "-c", script, "{run_dir}/x y", "{gpu_count}", "{port}", "{{literal}}"]
    server.drop("truck.toml", f'python = "{sys.executable}"\ncommand = {json.dumps(words)}\n')
    server.wait("truck", "SUCCEEDED")
    said = json.loads((server.attempt("truck").directory / "log").read_text())
    assert said[0] == str(server.run_dir("truck")) + "/x y"
    assert said[1] == "0"
    assert 1024 <= int(said[2]) < 65536
    assert said[3] == "{literal}"


def test_folders_and_files_may_have_spaces_and_chinese_names():
    """State, runs, jobs folder, job file, data, working folder: a run dies, the daemon dies, and all is finished."""
    with site("训练 服务器") as server:
        server.start()
        data = server.root / "数据 集" / "卡车 data.yaml"
        data.parent.mkdir()
        data.write_text("names: {}\n")
        flags = "--epoch-s 0.3 --signal-after KILL@3.1 --fault-once"
        server.train("truck", flags, epochs=5, train={"data": str(data)}, title="卡车 检测", cwd=str(data.parent))
        server.toy("lorry", flags, epochs=5, file="货车 作业.toml")
        server.wait_saved("truck", 1)
        server.restart()
        for name in ("truck", "lorry"):
            server.wait(name, "SUCCEEDED")
            assert server.attempts(name) == [1, 2]
            assert server.epochs_in_table(name) == [1, 2, 3, 4, 5]
        assert server.attempt("truck").json("launch.json")["cwd"] == str(data.parent)
        assert (server.jobs / "done" / "货车 作业.toml").exists()
        refused = server.drop("坏 的.toml", "x = 1\n")
        assert "坏 的.toml" in server.error_beside(refused)
        assert "卡车 检测" in server.cli("show", "truck", "--json").stdout
        assert server.cli("why", "lorry").returncode == 0
