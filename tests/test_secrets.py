"""Secrets of the environment and in URLs are never written, however a run ends."""

import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import wandb

from fake_wandb import FakeWandb
from small_runs import call, plan_for, raw_config, run
from unmask.commands.cli import parse, user_message
from unmask.commands.predict.arguments import Predict
from unmask.config.checks import ConfigError, check
from unmask.config.secrets import redact
from unmask.tasks.classify import Classify

PLANTED = {
    "WANDB_API_KEY": "planted0wandb0key0planted0wandb0key00000",
    "HF_TOKEN": "hf_planted0token0of0the0hub",
    "AWS_SECRET_ACCESS_KEY": "planted/aws+secret/0000000000",
}
IN_NETRC, IN_URL = "planted0netrc0password", "planted0url0password"


@pytest.fixture
def planted(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[list[bytes]]:
    """Plant the secrets, each where users keep it."""
    (tmp_path / "home").mkdir()
    netrc = tmp_path / "home" / ".netrc"
    netrc.write_text(f"machine api.wandb.ai login user password {IN_NETRC}\n")
    netrc.chmod(0o600)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    for name, value in PLANTED.items():
        monkeypatch.setenv(name, value)
    wandb.teardown()
    yield [value.encode() for value in [*PLANTED.values(), IN_NETRC, IN_URL]]
    wandb.teardown()


@pytest.fixture
def connections(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Return the addresses beyond this machine that this process tries to reach."""
    addresses, connect = [], socket.socket.connect

    def refuse_connection(self: socket.socket, address: Any) -> None:
        if self.family != socket.AF_UNIX and address[0] not in ("127.0.0.1", "::1"):
            addresses.append(address)
            raise OSError("no network in this test")
        connect(self, address)

    def refuse_lookup(host: Any, *_: object, **__: object) -> Any:
        addresses.append(host)
        raise socket.gaierror("no names in this test")

    monkeypatch.setattr(socket.socket, "connect", refuse_connection)
    monkeypatch.setattr(socket, "getaddrinfo", refuse_lookup)
    return addresses


def test_no_secret_is_in_any_byte_that_a_run_writes_prints_or_sends(
    planted: list[bytes],
    connections: list[Any],
    tmp_path: Path,
    capfd: pytest.CaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Run two stages with every dashboard, one failing with a secret in its message, and
    the report; nothing beyond this machine is contacted."""

    def failing(*_: object) -> None:
        raise RuntimeError(
            f"https://user:{IN_URL}@host/data refused {PLANTED['HF_TOKEN']}"
        )

    server = FakeWandb()
    for name, value in server.environment().items():
        if name not in PLANTED:
            monkeypatch.setenv(name, value)
    monkeypatch.setattr(Classify, "training_step", failing)
    runs = tmp_path / "runs"
    overrides = (
        f"runs_dir={runs}",
        "logger=[wandb,tensorboard]",
        "stages=[pretrain,knn,linear_probe]",
    )
    with pytest.raises(RuntimeError) as error:
        run(*overrides, "logger.wandb.mode=online")
    print(user_message(error.value))
    (error_file,) = runs.glob("linear_probe/*/error.txt")
    assert "https://***@host/data refused ***" in error_file.read_text()
    done = call(
        f"runs_dir={runs}", "experiment=baseline", script="report.py", tiny=False
    )
    assert done.returncode == 0, done.stderr
    printed = "".join([*capfd.readouterr(), done.stdout, done.stderr]).encode()
    files = {path: path.read_bytes() for path in runs.rglob("*") if path.is_file()}
    assert (
        len(
            [
                path
                for path in files
                if path.name.startswith("run-") and path.suffix == ".wandb"
            ]
        )
        == 3
    )
    outputs = {"printed": printed, "sent": b"".join(server.bodies), **files}
    assert not [
        (name, secret)
        for name, content in outputs.items()
        for secret in planted
        if secret in content
    ]
    assert not connections
    assert not server.other_hosts
    server.close()


@pytest.mark.parametrize(
    ("override", "message"),
    [
        (
            f"data.root=https://user:{IN_URL}@host/images",
            r"data.root = https://\*\*\*@host/images: holds a password",
        ),
        (
            f"init_from=s3://{IN_URL}@bucket/x.pth",
            r"init_from = s3://\*\*\*@bucket/x.pth: holds",
        ),
        (
            f"logger.wandb.entity={PLANTED['WANDB_API_KEY']}",
            r"logger.wandb.entity = \*\*\*: holds",
        ),
        (
            f"+logger.wandb.api_key={PLANTED['WANDB_API_KEY']}",
            r"logger.wandb.api_key = \*\*\*: holds",
        ),
    ],
)
def test_a_config_that_holds_a_secret_is_refused_and_not_repeated(
    override: str, message: str, planted: list[bytes]
) -> None:
    with pytest.raises(ConfigError, match=message) as refused:
        check(
            raw_config(
                "logger=wandb",
                override.replace("@", "\\@") if override.startswith("@") else override,
            )
        )
    assert not [secret for secret in planted if secret in str(refused.value).encode()]


def test_arguments_of_the_smaller_commands_are_refused_too() -> None:
    with pytest.raises(
        ConfigError, match=r"images = ftp://\*\*\*@host: holds a password"
    ):
        parse(Predict, ["checkpoint=x", f"images=ftp://a:{IN_URL}@host"])


def test_other_values_are_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SORT_KEY", "pretrain")  # too short
    monkeypatch.setenv("SSH_KEY", "/home/me/runs/of/mine")  # a path
    monkeypatch.setenv("MODEL_OF_MINE", "mae_vit_nano_of_mine")
    text = (
        "pretrain /home/me/runs/of/mine mae_vit_nano_of_mine a@b.c https://host/step@4"
    )
    assert redact(text) == text
    assert (
        plan_for("runs_dir=/home/me/runs/of/mine").config.runs_dir
        == "/home/me/runs/of/mine"
    )
