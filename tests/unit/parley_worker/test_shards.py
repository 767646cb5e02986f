"""Which shard takes a session, when one is lost, how soon it is started again, and what each is told."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from parley_worker import cores
from parley_worker.config import AUTO, Address, ConfigError, Settings
from parley_worker.core.admission import Refusal, RefusalReason
from parley_worker.core.shards import TRANSITIONS, Pauses, ShardState, ShardView, Silence, choose, share
from parley_worker.sharding import core_of, resolved, settings_of


def view(index: int, sessions: int = 0, capacity: int = 3, lag: str = "", up: bool = True) -> ShardView:
    return ShardView(index, ShardState.UP if up else ShardState.DOWN, capacity, sessions, lag)


def refused(verdict: int | Refusal) -> tuple[RefusalReason, str]:
    assert isinstance(verdict, Refusal), verdict
    return verdict.reason, verdict.message


def test_the_shard_with_the_fewest_sessions_is_chosen() -> None:
    assert choose([view(0, 2), view(1, 1), view(2, 1)]) == 1
    assert choose([view(0, 0, up=False), view(1, 2)]) == 1
    assert choose([view(0, 0, lag="lags"), view(1, 2)]) == 1
    assert choose([view(0, 1, capacity=1), view(1, 2)]) == 1


def test_an_older_attempt_makes_room_on_its_shard() -> None:
    assert choose([view(0), view(1, 3)], preferred=1) == 1
    assert choose([view(0), view(1, 3, up=False)], preferred=1) == 0
    assert choose([view(0), view(1, 1, lag="lags")], preferred=1) == 0


def test_a_refusal_says_what_is_short() -> None:
    full, down = view(0, 3), view(1, up=False)
    reason, message = refused(choose([full, down]))
    assert (reason, "all 3 places" in message) == (RefusalReason.FULL, True)
    assert refused(choose([down]))[0] is RefusalReason.OVERLOADED
    reason, message = refused(choose([full, view(1, 1, lag="the event loop lags 600 ms")]))
    assert (reason, message) == (RefusalReason.OVERLOADED, "shard 1: the event loop lags 600 ms")
    assert refused(choose([view(0, 3, lag="lags")]))[0] is RefusalReason.FULL


@given(st.lists(st.tuples(st.integers(0, 4), st.booleans(), st.booleans()), min_size=1, max_size=6))
def test_who_is_chosen_is_open_and_has_room(states: list[tuple[int, bool, bool]]) -> None:
    views = [view(n, sessions, 4, "x" if lags else "", up) for n, (sessions, lags, up) in enumerate(states)]
    verdict = choose(views)
    good = [v for v in views if v.open and v.sessions < v.capacity]
    if isinstance(verdict, Refusal):
        assert not good
    else:
        assert views[verdict] in good
        assert views[verdict].sessions == min(v.sessions for v in good)


@given(st.integers(1, 500), st.integers(1, 64))
def test_the_places_are_shared_out(total: int, count: int) -> None:
    parts = [share(total, count, n) for n in range(count)]
    assert sum(parts) == total
    assert max(parts) - min(parts) <= 1


def test_every_state_of_a_shard_can_be_left_but_the_last() -> None:
    reached = {target for targets in TRANSITIONS.values() for target in targets}
    assert reached == set(ShardState)
    assert [state for state, targets in TRANSITIONS.items() if not targets] == [ShardState.STOPPED]


def test_silence_is_counted_only_while_somebody_listens() -> None:
    silence = Silence(0.0, most=0.5)
    assert silence.look(0.25) == 0.25
    # The listener slept for a minute: the shard is not to blame.
    assert silence.look(60.0) == 0.75
    silence.heard()
    assert silence.look(60.25) == 0.25
    assert silence.look(60.0) == 0.25


def test_pauses_grow_and_begin_anew_after_a_steady_life() -> None:
    pauses = Pauses()
    assert [pauses.after(1.0) for _ in range(4)] == [0.1, 0.2, 0.4, 0.8]
    assert [pauses.after(1.0) for _ in range(10)][-1] == 30.0
    assert pauses.after(61.0) == 0.1
    assert pauses.after(1.0) == 0.2


def test_each_shard_has_ports_and_places_of_its_own() -> None:
    settings = Settings(
        name="w",
        capacity=7,
        shards=3,
        media_address=Address("127.0.0.1", 100),
        advertised_port=200,
        telephony_address=Address("127.0.0.1", 300),
        telephony_advertised_port=400,
        event_buffer_count=30,
        tool_calls=2,
    )
    told = [settings_of(resolved(settings), n) for n in range(3)]
    assert [s.capacity for s in told] == [3, 2, 2]
    assert [s.media_address.port for s in told] == [100, 101, 102]
    assert [s.telephony_address and s.telephony_address.port for s in told] == [300, 301, 302]
    assert [(s.advertised_port, s.telephony_advertised_port) for s in told] == [
        (200, 400), (201, 401), (202, 402),
    ]  # fmt: skip
    assert {(s.shards, s.event_buffer_count, s.tool_calls) for s in told} == {(0, 10, 1)}


def test_port_0_stays_any_free_one() -> None:
    anywhere = Address("127.0.0.1", 0)
    settings = Settings(shards=2, media_address=anywhere, telephony_address=anywhere)
    told = settings_of(resolved(settings), 1)
    assert (told.media_address, told.telephony_address) == (anywhere, anywhere)
    assert (told.advertised_port, told.telephony_advertised_port) == (0, 0)


def test_there_are_never_more_shards_than_sessions() -> None:
    assert resolved(Settings(capacity=2, shards=8)).shards == 2


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"media_address": Address("127.0.0.1", 7060)}, "MEDIA_ADDRESS: 3 shards need ports 7060 to 7062"),
        ({"media_address": Address("127.0.0.1", 65534)}, "MEDIA_ADDRESS: 3 shards need ports 65534 to 65536"),
        ({"telephony_address": Address("127.0.0.1", 7072)}, "PARLEY_WORKER_MEDIA_ADDRESS has one of them"),
        ({"advertised_port": 65535}, "ADVERTISED_PORT=65535"),
    ],
)
def test_ports_that_do_not_fit_are_named(changes: dict[str, object], words: str) -> None:
    with pytest.raises(ConfigError) as caught:
        resolved(Settings(capacity=9, shards=3, **changes))  # type: ignore[arg-type]
    assert any(words in problem for problem in caught.value.problems)


def test_auto_is_as_many_as_there_are_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cores, "affinity", lambda: [0, 1, 2, 3, 4, 5])
    monkeypatch.setattr(cores, "quota", lambda: 3.9)
    settings = Settings.from_environ({"PARLEY_WORKER_SHARDS": "auto", "PARLEY_WORKER_CAPACITY": "50"})
    assert settings.shards == AUTO
    assert resolved(settings).shards == 3


def test_a_shard_is_bound_to_a_core_only_where_there_are_enough() -> None:
    pinned = Settings(shards=2, pin_shards=True)
    assert [core_of(pinned, n, [4, 6, 9]) for n in range(2)] == [4, 6]
    assert core_of(pinned, 0, [4]) is None
    assert core_of(Settings(shards=2), 0, [4, 6, 9]) is None


@pytest.mark.parametrize(
    ("available", "quota", "expected"), [(4, None, 4), (4, 2.5, 2), (2, 8.0, 2), (4, 0.5, 1), (0, None, 1)]
)
def test_cores_that_may_be_used(available: int, quota: float | None, expected: int) -> None:
    assert cores.usable(available, quota) == expected


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def test_the_quota_of_a_control_group_of_version_2(tmp_path: Path) -> None:
    write(tmp_path / "proc/self/cgroup", "0::/kubepods/pod1/worker\n")
    groups = tmp_path / "sys/fs/cgroup"
    write(groups / "kubepods/pod1/worker/cpu.max", "max 100000\n")
    write(groups / "kubepods/pod1/cpu.max", "250000 100000\n")
    write(groups / "kubepods/cpu.max", "800000 100000\n")
    assert cores.quota(tmp_path) == 2.5
    write(groups / "cpu.max", "50000 100000\n")
    assert cores.quota(tmp_path) == 0.5


def test_the_quota_of_a_control_group_of_version_1(tmp_path: Path) -> None:
    write(tmp_path / "proc/self/cgroup", "5:memory:/a\n4:cpu,cpuacct:/docker/x\n0::/\n")
    folder = tmp_path / "sys/fs/cgroup/cpu,cpuacct"
    write(folder / "cpu.cfs_quota_us", "-1\n")
    write(folder / "cpu.cfs_period_us", "100000\n")
    assert cores.quota(tmp_path) is None
    # In a container: the host's path is not there, its own group is the root.
    write(folder / "cpu.cfs_quota_us", "300000\n")
    assert cores.quota(tmp_path) == 3.0
    write(tmp_path / "sys/fs/cgroup/cpu,cpuacct/docker/x/cpu.cfs_quota_us", "150000\n")
    write(tmp_path / "sys/fs/cgroup/cpu,cpuacct/docker/x/cpu.cfs_period_us", "100000\n")
    assert cores.quota(tmp_path) == 1.5


def test_no_control_group_is_no_quota(tmp_path: Path) -> None:
    assert cores.quota(tmp_path) is None


def test_settings_survive_the_way_to_a_shard(tmp_path: Path) -> None:
    for name in ("ca.crt", "tls.crt", "tls.key", "creds"):
        write(tmp_path / name, "x")
    settings = Settings(
        name="w",
        media_address=Address("::1", 5),
        control_address=Address(path="/run/parley"),
        telephony_address=Address("127.0.0.1", 6),
        advertised_host="h",
        control_tls_dir=tmp_path,
        nats_url="nats://u:p@h:1",
        nats_creds=tmp_path / "creds",
        nats_max_bytes=-1,
        nats_max_age=0.1 + 0.2,
        twilio_auth_token="secret",
        scenario_paths=(str(tmp_path), "/tmp"),
        uvloop=False,
        shards=2,
    )
    assert Settings.from_environ(settings.environ()) == settings
    assert Settings.from_environ(Settings(name="w", shards=AUTO).environ()).shards == AUTO
