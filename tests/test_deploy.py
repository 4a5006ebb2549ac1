"""The recipes of docs/deploy.md are files that their systems take, as far as this machine can tell."""

import re
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from retl.cli.commands import command_of

PAGE = (Path(__file__).parent.parent / "docs/deploy.md").read_text(encoding="utf-8")


def recipe(path: str) -> str:
    """The recipe of a file."""
    found = re.search(rf"<!-- recipe: {re.escape(path)} -->\n```\w+\n(.*?)```", PAGE, re.DOTALL)
    assert found is not None, path
    return found[1]


def parsed(path: str) -> Any:
    """The recipe of a YAML file, in which no key stands twice."""
    return YAML(typ="safe", pure=True).load(StringIO(recipe(path)))


@pytest.mark.parametrize("line", re.findall(r"retl (run [^\n'\",]*[\w-])", PAGE))
def test_the_commands_of_the_recipes_are_commands(line: str) -> None:
    """Each option is one of `retl run`."""
    known = {name for option in command_of("run").params for name in option.opts}
    assert set() == set(re.findall(r"--[\w-]+", line)) - known


def test_the_workflow_has_what_an_action_needs() -> None:
    """It has triggers, and each step either uses an action of a version or runs a command."""
    workflow = parsed(".github/workflows/retl.yml")
    assert {"name", "on", "concurrency", "permissions", "jobs"} == set(workflow)
    assert {"schedule", "workflow_dispatch"} == set(workflow["on"])
    (job,) = workflow["jobs"].values()
    assert [1] * len(job["steps"]) == [len({"uses", "run"} & set(step)) for step in job["steps"]]
    assert [] == [step["uses"] for step in job["steps"] if "uses" in step and "@v" not in step["uses"]]


def test_the_cron_job_is_one_of_kubernetes() -> None:
    """Its volumes are mounted, its policy names its container, and its command is retl's."""
    job = parsed("cronjob.yaml")
    assert ("batch/v1", "CronJob") == (job["apiVersion"], job["kind"])
    inner = job["spec"]["jobTemplate"]["spec"]
    pod = inner["template"]["spec"]
    (container,) = pod["containers"]
    assert [one["name"] for one in pod["volumes"]] == [one["name"] for one in container["volumeMounts"]]
    assert {container["name"]} == {
        one["onExitCodes"]["containerName"] for one in inner["podFailurePolicy"]["rules"]
    }
    assert "Never" == pod["restartPolicy"]  # which a failure policy asks for
    assert ["retl", "run"] == container["command"][:2]


def test_the_dag_is_python() -> None:
    """It compiles."""
    compile(recipe("dags/retl.py"), "retl.py", "exec")
