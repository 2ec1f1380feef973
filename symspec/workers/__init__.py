"""Who does long work: this process, a process for each core, or the workers of a cluster.

``scheduler=`` of `symspec.predict_survey`, `write_jacobian`, `validate`, `fit_laplace`, of
`symspec.fitting.fit_starts`, and of compiled sums such as
``compile_ggn_vector_product(reg)(theta, X, Y, v, scheduler=...)`` takes

- None, this process;
- ``"local"``, a process for each core of this machine, started and ended by the call, which in a
  script has to stand below ``if __name__ == "__main__":``;
- ``"tcp://node1:8786"``, the address of a running dask scheduler;
- a ``distributed.Client``, which stays open.

On the command line it is ``symspec errors model.h5 stars.h5 out.fits --scheduler local``, and so
for `jacobian` and `validate`. All but None take dask: ``pip install "symspec[dask]"``.

Which number comes out does not depend on who works. Stars are parted by their number and size
alone, and sums are added in the same order, so that files, fits and folds are byte by byte those of
one process with one thread of BLAS. (More threads, another processor or another BLAS round
otherwise, on workers as anywhere.) Workers with another version of symspec, NumPy, PyTensor or
Python, or with changed modules of symspec, are refused, also those that come later.

A worker that dies costs the pieces it had; dask gives them to others, and gives up when four have
died of one piece, mostly for want of memory. Finished pieces of a survey are kept beside the
output (`symspec.files`): the same call goes on from there, with other workers or none.

- A model goes to each worker once, pickled: workers share no disk with this process, and need
  none.
- Spectra of an HDF5 or FITS file are read by the workers, if they see the same file (the same inode
  and times); else, and from memory, they are sent, a few pieces at a time. Sending takes a good
  part of the time of a small network's error bars: for more than some eight workers let them see
  the file, by its full path.
- Derivatives are packed where they are found; this process only writes.
- Fits by "kronecker", "ekfac", "diagonal" and "last_layer" sum over blocks of 2,048 stars. Each
  block sends its sums back, for Kronecker factors 8 bytes times the squared widths of the layers.

One worker process with one thread for each core is best: a process works on one piece at a time,
and dask gives a process that it starts one thread of BLAS
(``dask worker tcp://node1:8786 --nworkers 16 --nthreads 1``). ``--no-nanny`` lets symspec choose
how many threads of BLAS a product takes.

SLURM, by dask-jobqueue
-----------------------
``pip install dask-jobqueue`` where the jobs start from; the scheduler then runs in this process,
and each job is one of SLURM's that starts workers from the same environment:

.. code-block:: python

    import symspec as ss
    from dask_jobqueue import SLURMCluster
    from distributed import Client

    if __name__ == "__main__":
        cluster = SLURMCluster(
            queue="standard", account="stars", walltime="02:00:00",
            cores=16, processes=16, memory="64GB",  # of a job: 16 workers of one thread and 4 GB
            interface="ib0",  # the network by which nodes reach each other
            job_script_prologue=["source /home/me/venv/bin/activate"],
        )
        cluster.scale(jobs=8)  # 128 workers, as they get through the queue
        client = Client(cluster)
        client.wait_for_workers(16)  # pieces go to whoever is there; others join
        laplace = ss.read_laplace("model.h5")
        ss.predict_survey("out.fits", laplace, "/scratch/stars.h5", scheduler=client)

A job that ends at its walltime, or is preempted, is a worker that died. From the command line, in a
job of its own, ``dask scheduler --interface ib0`` prints the address for ``--scheduler`` and for
``srun dask worker tcp://... --nworkers 16 --nthreads 1`` of other jobs. A scheduler runs whatever
it is sent, for anybody who reaches its port: keep it inside the cluster, or use dask's TLS and give
a client.

Here, `sum` is done by whoever is asked:

>>> from symspec.workers import open_workers
>>> from symspec.workers.interface import Task
>>> with open_workers(None) as workers:
...     print(list(workers.map(Task(read=range, find=sum), [3, 4])))
[(0, 3), (1, 6)]
"""

from symspec.workers.choice import open_workers

__all__ = ["open_workers"]
