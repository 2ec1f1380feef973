"""Two worker processes, of which one is killed now and then, give what this process gives."""

import functools
import warnings
from contextlib import closing
from types import SimpleNamespace

import h5py
import numpy as np
import pytest

import symspec as ss
from symspec.derivatives import tangent_stream
from symspec.errors import OptionError, WorkersError
from symspec.files import jacobians, surveys
from symspec.fitting.fit import FitOptions
from symspec.fitting.starts import fit_starts
from symspec.laplace.posterior import LaplacePosterior
from symspec.workers import open_workers
from symspec.workers.interface import Task

distributed = pytest.importorskip("distributed")
from killing import KillNext  # noqa: E402

from symspec.workers import cluster as dask_cluster  # noqa: E402

N_STARS, N_PIXELS = 60, 20
QUIETLY = {  # no page of its own, on any port, without limits
    "dashboard_address": None,
    "scheduler_kwargs": {"dashboard_address": ":0"},
    "memory_limit": None,
}


@pytest.fixture(scope="module")
def work(tmp_path_factory):
    """A file of stars, and a posterior of them."""
    rng = np.random.default_rng(0)
    stars = ss.datasets.generated_stars(N_STARS, n_pixels=N_PIXELS, snr=100, rng=rng)
    net = ss.mlp(
        [N_PIXELS, 3, 3], activation="tanh", label_names=stars.label_names,
        label_units=stars.label_units,
    )  # fmt: skip
    net = ss.standardized(net, stars.flux, stars.labels)
    noise = ss.StudentTNoise([50.0, 0.1, 0.05], dof=4)
    reg = ss.Regression(net, noise=noise, prior_precision=ss.scaled_prior(net, 1.0))
    theta = net.init_params(rng)
    laplace = ss.fit_laplace(
        reg, theta, stars, structure="dual", require_minimum=False, progress=False
    )
    path = tmp_path_factory.mktemp("work") / "stars.h5"
    with h5py.File(path, "w") as file:
        for name in ("flux", "ivar", "wavelength"):
            file[name] = getattr(stars, name)
    return SimpleNamespace(path=path, stars=stars, net=net, reg=reg, theta=theta, laplace=laplace)


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
    """Two worker processes; `kill_next()` lets the one die that begins the next piece."""
    flag = tmp_path_factory.mktemp("kill") / "next"
    with (
        distributed.LocalCluster(n_workers=2, threads_per_worker=1, **QUIETLY) as local,
        distributed.Client(local, set_as_default=False) as client,
    ):
        client.register_plugin(KillNext(str(flag)))
        yield SimpleNamespace(
            client=client,
            scheduler=local.scheduler,
            address=local.scheduler_address,
            kill_next=flag.touch,
            has_killed=lambda: not flag.exists(),
        )


@pytest.fixture
def small_pieces(monkeypatch):
    monkeypatch.setattr(surveys, "find_piece_size", lambda *_: 8)
    monkeypatch.setattr(jacobians, "find_piece_size", lambda *_: 8)


def test_a_survey_is_the_same_file_though_a_worker_died(work, cluster, tmp_path, small_pieces):
    """The workers read the file themselves."""
    predict = functools.partial(ss.predict_survey, progress=False)
    predict(tmp_path / "here.fits", work.laplace, work.path)
    cluster.kill_next()
    predict(tmp_path / "there.fits", work.laplace, work.path, scheduler=cluster.address)
    assert cluster.has_killed()
    assert (tmp_path / "there.fits").read_bytes() == (tmp_path / "here.fits").read_bytes()


def test_derivatives_are_the_same_file(work, cluster, tmp_path, small_pieces):
    """The workers are sent the spectra, which are in memory."""
    write = functools.partial(ss.write_jacobian, net=work.net, theta=work.theta, progress=False)
    write(tmp_path / "here.h5", spectra=work.stars)
    write(tmp_path / "there.h5", spectra=work.stars, scheduler=cluster.client)
    assert (tmp_path / "there.h5").read_bytes() == (tmp_path / "here.h5").read_bytes()


def test_what_workers_began_this_process_ends(work, cluster, tmp_path, small_pieces):
    counts = []

    def stop(stage, done, total, **news):
        counts.append(done)
        if done:
            raise KeyboardInterrupt

    run = functools.partial(ss.predict_survey, tmp_path / "c.fits", work.laplace)
    with pytest.raises(KeyboardInterrupt):
        run(work.stars, progress=stop, scheduler=cluster.client)
    assert len(list((tmp_path / "c.fits.partial").glob("stars_*.h5"))) == 1
    run(work.stars, progress=lambda stage, done, total: counts.append(done))
    assert counts[1] == counts[2]
    ss.predict_survey(tmp_path / "here.fits", work.laplace, work.stars, progress=False)
    assert (tmp_path / "c.fits").read_bytes() == (tmp_path / "here.fits").read_bytes()
    assert not (tmp_path / "c.fits.partial").exists()


@pytest.mark.parametrize("structure", ["kronecker", "ekfac", "diagonal", "last_layer"])
def test_fits_are_the_same_to_the_last_bit_though_a_worker_died(
    work, cluster, structure, monkeypatch
):
    monkeypatch.setattr(tangent_stream, "BLOCK_STARS", 16)
    fit = functools.partial(
        ss.fit_laplace, work.reg, work.theta, work.stars, structure=structure,
        require_minimum=False, progress=False,
    )  # fmt: skip
    here = fit()
    if structure == "kronecker":
        cluster.kill_next()
    there = fit(scheduler=cluster.client)
    assert cluster.has_killed()
    arrays = there.inverse_hessian.arrays()
    assert arrays.keys() == here.inverse_hessian.arrays().keys()
    for name, array in here.inverse_hessian.arrays().items():
        np.testing.assert_array_equal(arrays[name], array)
    np.testing.assert_array_equal(there.gradient, here.gradient)
    assert there.log_marginal_likelihood() == here.log_marginal_likelihood()


@pytest.mark.parametrize(
    "compile_sum",
    [ss.compile_objective, ss.compile_ggn_vector_product, ss.compile_ggn],
    ids=["objective", "ggn-product", "ggn"],
)
def test_sums_over_stars_are_the_same_to_the_last_bit(work, cluster, compile_sum, monkeypatch):
    function = compile_sum(work.reg)
    monkeypatch.setattr(function, "chunk", 16)
    extra = [work.theta[::-1]] if compile_sum is ss.compile_ggn_vector_product else []
    given = (work.theta, work.stars.flux, work.stars.labels, *extra)
    here = function(*given)
    there = function(*given, scheduler=cluster.client)
    for one, other in (
        zip(np.atleast_1d(here), np.atleast_1d(there), strict=True)
        if not isinstance(here, tuple)
        else zip(here, there, strict=True)
    ):
        np.testing.assert_array_equal(one, other)


def test_folds_are_the_same_though_a_worker_died(work, cluster):
    validate = functools.partial(
        ss.validate, work.stars, folds=2, hidden=(), tune=False, n_workers=1, progress=False
    )
    here = validate()
    cluster.kill_next()
    there = validate(scheduler=cluster.address)
    assert cluster.has_killed()
    np.testing.assert_array_equal(there.prediction.labels, here.prediction.labels)
    np.testing.assert_array_equal(there.prediction.total_cov, here.prediction.total_cov)


def test_starts_are_the_same(work, cluster):
    options = FitOptions(hidden=(), dof=4.0, epochs=1, tune=False)
    here = fit_starts(work.stars, options, n_starts=2, progress=False)
    there = fit_starts(work.stars, options, n_starts=2, progress=False, scheduler=cluster.client)
    for one, other in zip(there.posteriors, here.posteriors, strict=True):
        np.testing.assert_array_equal(one.theta, other.theta)
        np.testing.assert_array_equal(one.training_stars.flux, other.training_stars.flux)
    expected = here.predict(work.stars, progress=False).total_cov
    np.testing.assert_array_equal(there.predict(work.stars, progress=False).total_cov, expected)


def die_of(number):
    """What dask says of a piece that killed one worker after the other."""
    raise distributed.KilledWorker("piece", SimpleNamespace(address="tcp://node1:4000"), 3)


def test_a_piece_of_which_workers_die_is_told(cluster):
    words = r"a piece should .* got 4 that died of it, the last of them tcp://node1:4000.* memory"
    task = Task(read=abs, find=die_of)
    with open_workers(cluster.client) as workers, pytest.raises(WorkersError, match=words):
        list(workers.map(task, [1]))


def test_workers_with_other_versions_are_refused(work, cluster, monkeypatch):
    newer = dask_cluster.find_own_versions() | {"symspec": "99.1"}
    monkeypatch.setattr(dask_cluster, "find_own_versions", lambda: newer)
    words = r"the worker tcp://\S+ should have the versions .* symspec \S+ where 99.1 is expected"
    with pytest.raises(WorkersError, match=words), open_workers(cluster.client):
        pass
    # one that came later is refused by its first piece
    monkeypatch.setattr(dask_cluster.Cluster, "_check_workers", lambda self: None)
    task = Task(read=abs, find=abs)
    with (
        pytest.raises(WorkersError, match=words),
        open_workers(cluster.client) as workers,
        closing(workers.map(task, [-1])) as found,
    ):
        next(found)


def negate(number):
    if number == 3:
        warnings.warn("three is odd", UserWarning, stacklevel=1)
    if number == 5:
        raise ss.NotPositiveDefiniteError("five is too many", -5.0)
    return -number


def test_warnings_and_errors_of_workers_are_given_here(cluster):
    task = Task(read=abs, find=negate)
    with open_workers(cluster.address) as workers:
        with pytest.warns(UserWarning, match="three is odd"):
            assert sorted(workers.map(task, [4, 3])) == [(0, -4), (1, -3)]
        numbers = [10 + i for i in range(20)]
        in_order = list(workers.map(task, numbers, in_order=True))
        assert in_order == [(i, -number) for i, number in enumerate(numbers)]
        with pytest.raises(ss.NotPositiveDefiniteError, match="too many") as told:
            list(workers.map(task, [5]))
        assert told.value.smallest_eigenvalue == -5.0


class SeesNothing:
    """Reads where there is another file."""

    def __call__(self, piece):
        return None

    def close(self):
        """Nothing is open."""


def test_workers_that_do_not_see_the_file_are_sent_what_is_in_it(cluster):
    task = Task(read=abs, find=negate, read_there=SeesNothing())
    numbers = [10 + i for i in range(9)]
    expected = [(i, -number) for i, number in enumerate(numbers)]
    with open_workers(cluster.client) as workers:
        assert sorted(workers.map(task, numbers)) == expected
        assert list(workers.map(task, numbers, in_order=True)) == expected


def test_each_worker_is_sent_a_model_once(work, cluster, tmp_path, small_pieces, monkeypatch):
    asked = []
    whole = LaplacePosterior.__getstate__
    monkeypatch.setattr(
        LaplacePosterior, "__getstate__", lambda self: asked.append(1) or whole(self)
    )
    ss.predict_survey(
        tmp_path / "c.fits", work.laplace, work.stars, progress=False, scheduler=cluster.client
    )
    assert len(asked) == 1  # for 8 pieces; the scheduler passes on the same bytes
    assert not any(name.startswith("symspec") for name in cluster.scheduler.worker_plugins)


def test_local_starts_workers_and_ends_them(monkeypatch):
    started = []

    def start(**options):
        local = distributed.LocalCluster(**options, processes=False)  # which takes no time
        started.append((options["n_workers"], options["threads_per_worker"], local))
        return local

    monkeypatch.setattr(dask_cluster, "LocalCluster", start)
    monkeypatch.setattr(dask_cluster, "CPU_COUNT", 1)
    with open_workers("local") as workers:
        assert list(workers.map(Task(read=abs, find=negate), [7])) == [(0, -7)]
    [(n_workers, n_threads, local)] = started
    assert (n_workers, n_threads, local.status.name) == (1, 1, "closed")


def test_processes_that_do_not_start_are_told(monkeypatch):
    def start(**_):
        raise RuntimeError("Nanny failed to start.")

    monkeypatch.setattr(dask_cluster, "LocalCluster", start)
    words = 'scheduler="local" .* below `if __name__ == "__main__":`'
    with pytest.raises(WorkersError, match=words), open_workers("local"):
        pass


def test_a_scheduler_out_of_reach_is_named(monkeypatch):
    monkeypatch.setattr(dask_cluster, "SECONDS_TO_CONNECT", 0.2)
    with (
        pytest.raises(WorkersError, match=r"got tcp://127.0.0.1:9, which .* within 0.2 seconds"),
        open_workers("tcp://127.0.0.1:9"),
    ):
        pass


def test_a_scheduler_without_workers_is_told(monkeypatch):
    monkeypatch.setattr(dask_cluster, "SECONDS_TO_CONNECT", 0.2)
    with (
        distributed.LocalCluster(n_workers=0, processes=False, **QUIETLY) as local,
        distributed.Client(local, set_as_default=False) as client,
        pytest.raises(WorkersError, match=r"should have workers, got none within 0\.2 seconds"),
        open_workers(client),
    ):
        pass


def test_a_scheduler_that_is_lost_is_told():
    with distributed.LocalCluster(n_workers=1, processes=False, **QUIETLY) as local:
        client = distributed.Client(local, set_as_default=False)
        with (
            open_workers(client) as workers,
            closing(workers.map(Task(read=abs, find=negate), range(10, 30))) as found,
        ):
            next(found)
            local.close()
            with pytest.raises(WorkersError, match=r"was lost .* start it again"):
                list(found)
        client.close()


@pytest.mark.parametrize("scheduler", ["lokal", 3, b"tcp://127.0.0.1:9"])
def test_what_is_no_scheduler_is_refused(scheduler):
    with (
        pytest.raises(OptionError, match=r"scheduler should be None .* got"),
        open_workers(scheduler),
    ):
        pass
