"""Runs one notebook through papermill, over IPC sockets so that parallel kernels cannot race for ports.

    python engine/execute.py NOTEBOOK EXECUTED --parameters '{"epochs": 3}' --set out=runs/x seed=0

The executed notebook is written after every cell; if a cell fails, the notebook with the error stays.
"""

import argparse
import json
import logging
import os
import sys
import tempfile
from pathlib import Path

os.environ.setdefault("JUPYTER_PLATFORM_DIRS", "1")
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import engine  # noqa: F401, I001  (before papermill: makes its import three times as fast)
import papermill
from jupyter_client import AsyncKernelManager
from papermill.engines import NBClientEngine, papermill_engines
from papermill.exceptions import PapermillExecutionError
from traitlets.config import Config

from studylib import budget

CLIENT = Path(__file__).resolve().with_name("client.py")


class Kernel(AsyncKernelManager):
    """A kernel that is started through the run's warm process, where there is one, and ended without ceremony."""

    def format_kernel_cmd(self, extra_arguments=None):
        command = super().format_kernel_cmd(extra_arguments)
        return [sys.executable, "-I", "-S", str(CLIENT), *command[command.index("-m") :]]

    async def shutdown_kernel(self, now=False, restart=False):
        """When this is called, every cell is done; asking the kernel to end, and waiting for that, takes 0.1 to 1 s."""
        process = self.provisioner.process
        await self.provisioner.kill()
        if process is not None:
            process.wait()
        await self.cleanup_resources()


class IPCEngine(NBClientEngine):
    """papermill's engine with the kernel's sockets in a folder of their own."""

    @classmethod
    def execute_managed_notebook(cls, nb_man, kernel_name, **kwargs):
        warm = Path(os.environ.get("STUDY_WARM", ""))  # its folder goes even if this process is killed
        inside = warm.parent if warm.is_socket() else None
        with tempfile.TemporaryDirectory(prefix="k", dir=inside) as folder:  # short: a socket's path has 107 bytes
            files = {"ip": f"{folder}/k", "connection_file": f"{folder}/connection.json"}
            config = Config(KernelManager={"transport": "ipc", **files})
            kwargs |= {"kernel_manager_class": Kernel, "config": config}
            return super().execute_managed_notebook(nb_man, kernel_name, **kwargs)


papermill_engines.register("ipc", IPCEngine)


def execute(notebook: Path, executed: Path, parameters: dict) -> None:
    """Runs ``notebook`` with ``parameters`` and writes it to ``executed``.

    Raises:
        KeyError: a parameter that the notebook does not have.
        PapermillExecutionError: a cell failed.
    """
    unknown = sorted(set(parameters) - set(papermill.inspect_notebook(str(notebook))))
    if unknown:
        raise KeyError(f"{notebook}: it has no parameter {unknown[0]!r}")
    executed.parent.mkdir(parents=True, exist_ok=True)
    papermill.execute_notebook(
        str(notebook),
        str(executed),
        parameters,
        engine_name="ipc",
        kernel_name="python3",
        progress_bar=False,
        log_output=True,
        request_save_on_cell_execute=True,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("notebook", type=Path)
    parser.add_argument("executed", type=Path)
    parser.add_argument("--parameters", type=json.loads, default={})
    parser.add_argument("--set", nargs="*", default=[], metavar="NAME=VALUE", help="VALUE is JSON, or else text")
    args = parser.parse_args()
    parameters = dict(args.parameters)
    for item in args.set:
        name, _, value = item.partition("=")
        try:
            parameters[name] = json.loads(value)
        except ValueError:
            parameters[name] = value
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stdout)
    if budget.left() <= 0:
        sys.exit(f"{budget.Paused.__name__}: not begun, the time is up")
    try:
        execute(args.notebook, args.executed, parameters)
    except PapermillExecutionError as error:
        sys.exit(f"{error.ename}: {error.evalue}\nThe notebook with the error in it: {args.executed.resolve()}")


if __name__ == "__main__":
    main()
