"""What the environment holds and what a URL hides is never written, whatever is logged and however a run ends."""

import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import wandb

from fake_wandb import FakeWandb
from small_runs import call, plan_for, raw_config, run
from unmask.commands.cli import user_message
from unmask.config.arguments import Predict, arguments
from unmask.config.checks import ConfigError, check
from unmask.config.secrets import masked
from unmask.tasks.classify import Classify

PLANTED = {
    "WANDB_API_KEY": "planted0wandb0key0planted0wandb0key00000",
    "HF_TOKEN": "hf_planted0token0of0the0hub",
    "AWS_SECRET_ACCESS_KEY": "planted/aws+secret/0000000000",
}
IN_NETRC, IN_URL = "planted0netrc0password", "planted0url0password"


@pytest.fixture
def planted(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[list[bytes]]:
    """The secrets, each in its place."""
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
def called(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Addresses beyond this machine that this process tries to reach."""
    found, connect = [], socket.socket.connect

    def watched(self: socket.socket, address: Any) -> None:
        if self.family != socket.AF_UNIX and address[0] not in ("127.0.0.1", "::1"):
            found.append(address)
            raise OSError("no network in this test")
        connect(self, address)

    def named(host: Any, *_: object, **__: object) -> Any:
        found.append(host)
        raise socket.gaierror("no names in this test")

    monkeypatch.setattr(socket.socket, "connect", watched)
    monkeypatch.setattr(socket, "getaddrinfo", named)
    return found


def test_no_secret_is_in_any_byte_that_a_run_writes_or_says(
    planted: list[bytes],
    called: list[Any],
    tmp_path: Path,
    capfd: pytest.CaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Two stages with every mirror, of which one fails with a secret in its words, and the report; and nothing is
    reached beyond this machine."""

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
    (kept,) = runs.glob("linear_probe/*/error.txt")
    assert "https://***@host/data refused ***" in kept.read_text()
    done = call(
        f"runs_dir={runs}", "experiment=baseline", script="report.py", tiny=False
    )
    assert done.returncode == 0, done.stderr
    said = "".join([*capfd.readouterr(), done.stdout, done.stderr]).encode()
    files = {path: path.read_bytes() for path in runs.rglob("*") if path.is_file()}
    assert (
        len(
            [
                path
                for path in files
                if path.name.startswith("run-") and path.suffix == ".wandb"
            ]
        )
        == 2
    )
    places = {"said": said, "sent": b"".join(server.bodies), **files}
    assert not [
        (place, secret)
        for place, content in places.items()
        for secret in planted
        if secret in content
    ]
    assert not called
    assert not server.strangers
    server.close()


@pytest.mark.parametrize(
    ("override", "said"),
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
    override: str, said: str, planted: list[bytes]
) -> None:
    with pytest.raises(ConfigError, match=said) as refused:
        check(
            raw_config(
                "logger=wandb",
                override.replace("@", "\\@") if override.startswith("@") else override,
            )
        )
    assert not [secret for secret in planted if secret in str(refused.value).encode()]


def test_arguments_of_the_smaller_commands_are_refused_alike() -> None:
    with pytest.raises(
        ConfigError, match=r"images = ftp://\*\*\*@host: holds a password"
    ):
        arguments(Predict, {"checkpoint": "x", "images": f"ftp://a:{IN_URL}@host"})


def test_what_is_no_secret_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SORT_KEY", "pretrain")  # too short
    monkeypatch.setenv("SSH_KEY", "/home/me/runs/of/mine")  # a place
    monkeypatch.setenv("MODEL_OF_MINE", "mae_vit_nano_of_mine")
    text = (
        "pretrain /home/me/runs/of/mine mae_vit_nano_of_mine a@b.c https://host/step@4"
    )
    assert masked(text) == text
    assert (
        plan_for("runs_dir=/home/me/runs/of/mine").config.runs_dir
        == "/home/me/runs/of/mine"
    )
