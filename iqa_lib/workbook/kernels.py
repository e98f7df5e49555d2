"""Kernels that start at once: forked from a process that has imported what every notebook imports."""

import atexit
import multiprocessing
import os
import sys
import threading
import uuid
from pathlib import Path
from typing import Any

from jupyter_client import AsyncKernelManager
from jupyter_client.provisioning import LocalProvisioner

INLINE = "module://matplotlib_inline.backend_inline"  # figures become the notebook's output
IMPORTED = ["ipykernel.kernelapp", "IPython.core.pylabtools", "iqa_lib.study.exhibits", "iqa_lib.workbook.report"]
# Elsewhere a fork is not safe: system libraries of macOS have threads, a GPU's driver is bound to its process.
CAN_FORK = sys.platform == "linux" and not Path("/proc/driver/nvidia").exists()


class ForkedKernelManager(AsyncKernelManager):
    """Starts a notebook's kernel as jupyter_client does, without the seconds that its imports take."""

    async def _async_pre_start_kernel(self, **options: Any) -> tuple[list[str], dict[str, Any]]:
        self.kernel_id = self.kernel_id or str(uuid.uuid4())
        self.provisioner = _Forked(kernel_id=self.kernel_id, kernel_spec=self.kernel_spec, parent=self)
        return await super()._async_pre_start_kernel(**options)


class _Forked(LocalProvisioner):
    async def launch_kernel(self, cmd: list[str], **options: Any) -> Any:
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(IMPORTED)
        folder = options.get("cwd") or os.getcwd()
        process = context.Process(target=_run, args=(cmd[cmd.index("-m") + 2 :], folder, options["env"]))
        process.start()
        self.process, self.pid = _Process(process), process.pid
        return self.connection_info


class _Process:
    """A process of multiprocessing with the methods of subprocess.Popen that a provisioner calls."""

    stdin = stdout = stderr = None

    def __init__(self, process: multiprocessing.Process):
        self._process = process
        self.kill, self.terminate = process.kill, process.terminate

    def poll(self) -> int | None:
        return self._process.exitcode

    def wait(self) -> int | None:
        self._process.join()
        return self._process.exitcode

    def send_signal(self, number: int) -> None:
        os.kill(self._process.pid, number)


def _run(arguments: list[str], folder: str, environment: dict[str, str]) -> None:
    import matplotlib
    from ipykernel.kernelapp import launch_new_instance

    multiprocessing.set_start_method(None, force=True)  # the system's own for what the kernel starts
    os.setsid()  # a Ctrl-C is the runner's to handle
    os.chdir(folder)
    if os.environ.get("IQA_HOME") != environment.get("IQA_HOME"):  # what is imported belongs to another home
        os.execve(sys.executable, [sys.executable, "-m", "ipykernel_launcher", *arguments], environment)
    os.environ.clear()
    os.environ.update(environment, JPY_PARENT_PID=str(os.getppid()))
    matplotlib.rcParams["backend"] = INLINE  # it read the environment when it was imported
    threading.Thread(target=_end_with_the_runner, daemon=True).start()
    try:
        launch_new_instance(argv=arguments)
    finally:
        atexit._run_exitfuncs()  # multiprocessing leaves them out


def _end_with_the_runner() -> None:
    multiprocessing.parent_process().join()
    os._exit(1)


KERNEL_MANAGER = ForkedKernelManager if CAN_FORK else AsyncKernelManager
