"""A plugin for dask's workers: the next piece of symspec's kills the worker that begins it."""

import os
import signal

from distributed import WorkerPlugin


class KillNext(WorkerPlugin):
    def __init__(self, flag):
        self.flag = flag  # a file that says so, and goes then

    def transition(self, key, start, finish, **more):
        if finish != "executing" or not str(key).startswith("symspec"):
            return
        try:
            os.unlink(self.flag)
        except FileNotFoundError:
            return
        os.kill(os.getpid(), signal.SIGKILL)
