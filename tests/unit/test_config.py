# SPDX-License-Identifier: GPL-2.0-or-later
"""What a good configuration becomes, and how files are found and read."""

from __future__ import annotations

import os
from ipaddress import ip_interface
from pathlib import Path
from types import SimpleNamespace

import pytest

from nlmfo.config import Config, Consistency, EndGrace, Export, Isolation, Notifier, Partition, Service, load
from nlmfo.errors import ConfigError

#: The example of the documentation: all keys that it shows, with its own words.
HOME = """\
addresses = ["10.10.0.100/24", "fd00::100/64"]
interface = "eth0"
names = ["nfs100.example"]      # what clients mount by; notices carry these and the address
isolation = "netns"
state = "/srv/nlmfo/home"       # here: a small partition of its own, listed below
versions = ["3"]
[[partition]]
uuid = "11111111-2222-3333-4444-555555555555"
mountpoint = "/srv/home"
options = "noatime"
[[partition]]
uuid = "66666666-7777-8888-9999-000000000000"
mountpoint = "/srv/nlmfo/home"
[[export]]
path = "/srv/home/data"
fsid = 1234
clients = { "*" = "rw,no_root_squash" }
"""

#: The least that a service needs when there is a registry.
SMALL = """\
addresses = ["10.10.0.101/24"]
interface = "eth0"
[[partition]]
uuid = "ABCD-1234"
mountpoint = "/srv/small"
[[export]]
path = "/srv/small"
fsid = "00112233:44556677:8899AABB:CCDDEEFF"
clients = { "10.10.0.0/24" = "rw", "@trusted" = "rw,sec=krb5p", "*.example" = "ro" }
"""

MAIN = '[node]\nname = "node1"\n'


def with_registry(directory: Path) -> str:
    """The nlmfo.toml of a node whose registry is there."""
    return f'{MAIN}[cluster]\nregistry = "{directory}"\n'


WITH_REGISTRY = with_registry(Path("/cluster/nlmfo"))


def write(directory: Path, main: str = MAIN, **services: str) -> Path:
    """A configuration directory with nlmfo.toml and one file per service."""
    (directory / "services.d").mkdir(exist_ok=True)
    (directory / "nlmfo.toml").write_text(main, encoding="utf-8")
    for name, text in services.items():
        (directory / "services.d" / f"{name}.toml").write_text(text, encoding="utf-8")
    return directory


def refusal(directory: Path) -> ConfigError:
    with pytest.raises(ConfigError) as caught:
        load(directory)
    return caught.value


def load_home(directory: Path, main: str = MAIN, text: str = HOME) -> Service:
    return load(write(directory, main, home=text)).service("home")


def test_the_example_that_is_to_be_copied_loads_without_a_warning() -> None:
    config = load(Path(__file__).parents[2] / "contrib/example")
    assert list(config.services) == ["home"]
    assert config.warnings == ()


def test_the_documented_example_loads_without_a_warning(tmp_path: Path) -> None:
    config = load(write(tmp_path, home=HOME))
    assert config.directory == tmp_path
    assert config.node == "node1"
    assert config.registry is None
    assert config.warnings == ()
    assert config.service("home") == Service(
        name="home",
        file=tmp_path / "services.d" / "home.toml",
        addresses=(ip_interface("10.10.0.100/24"), ip_interface("fd00::100/64")),
        interface="eth0",
        names=("nfs100.example",),
        isolation=Isolation.NETNS,
        state=Path("/srv/nlmfo/home"),
        versions=("3",),
        partitions=(
            Partition("11111111-2222-3333-4444-555555555555", Path("/srv/home"), "noatime"),
            Partition("66666666-7777-8888-9999-000000000000", Path("/srv/nlmfo/home")),
        ),
        exports=(Export(Path("/srv/home/data"), "1234", (("*", "rw,no_root_squash"),)),),
        grace=None,
        threads=8,
        consistency=Consistency.SYNC,
        notifier=Notifier.NLMFO,
        end_grace=EndGrace.RECLAIMED,
        settle=0.5,
        retry_for=604_800,
        forget_after=0,
    )


def test_what_a_service_leaves_out_gets_the_documented_default(tmp_path: Path) -> None:
    service = load(write(tmp_path, WITH_REGISTRY, small=SMALL)).service("small")
    assert service.names == ()
    assert service.isolation is Isolation.NETNS
    assert service.state == Path("/cluster/nlmfo/services/small/state")
    assert service.versions == ("3",)
    assert service.partitions[0].options == "defaults"
    assert (service.grace, service.threads, service.consistency) == (None, 8, Consistency.SYNC)


def test_identifiers_come_in_one_spelling_whatever_the_file_used(tmp_path: Path) -> None:
    service = load(write(tmp_path, WITH_REGISTRY, small=SMALL)).service("small")
    assert service.partitions[0].uuid == "abcd-1234"
    assert service.exports[0].fsid == "00112233-4455-6677-8899-aabbccddeeff"


def test_clients_keep_the_order_of_the_file(tmp_path: Path) -> None:
    service = load(write(tmp_path, WITH_REGISTRY, small=SMALL)).service("small")
    assert [pattern for pattern, _ in service.exports[0].clients] == ["10.10.0.0/24", "@trusted", "*.example"]


def test_defaults_apply_to_a_service_that_says_nothing(tmp_path: Path) -> None:
    defaults = '[defaults]\ngrace = 20\nthreads = 16\nconsistency = "async"\n'
    service = load_home(tmp_path, MAIN + defaults)
    assert (service.grace, service.threads, service.consistency) == (20, 16, Consistency.ASYNC)


def test_a_service_overrides_the_defaults(tmp_path: Path) -> None:
    defaults = '[defaults]\ngrace = 20\nthreads = 16\nconsistency = "async"\n'
    own = 'grace = 30\nthreads = 1\nconsistency = "snapshot"\n'
    service = load_home(tmp_path, MAIN + defaults, own + HOME)
    assert (service.grace, service.threads, service.consistency) == (30, 1, Consistency.SNAPSHOT)


@pytest.mark.parametrize("isolation", Isolation)
def test_a_service_may_have_a_server_of_its_own_or_share_the_nodes(tmp_path: Path, isolation: Isolation) -> None:
    service = load_home(tmp_path, text=HOME.replace('"netns"', f'"{isolation}"'))
    assert service.isolation is isolation


def test_without_a_word_in_cluster_nobody_is_fenced_and_no_nfsd_restarted(tmp_path: Path) -> None:
    for main in (MAIN, WITH_REGISTRY):
        config = load(write(tmp_path, main, home=HOME))
        assert (config.fence, config.fence_deadline, config.restart_nfsd) == ((), 60.0, False)


def test_the_fence_hook_is_kept_word_for_word(tmp_path: Path) -> None:
    words = '["/usr/sbin/fence_ipmilan", "--ip={node}-bmc.example", "-o", "off", "a \'b\' $c", "{node}"]'
    config = load(write(tmp_path, f"{WITH_REGISTRY}fence = {words}\nfence_deadline = 90\nrestart_nfsd = true\n"))
    assert config.fence == (*("/usr/sbin/fence_ipmilan", "--ip={node}-bmc.example", "-o", "off", "a 'b' $c", "{node}"),)
    assert config.fence_deadline == 90.0
    assert config.restart_nfsd is True
    assert config.registry == Path("/cluster/nlmfo")


@pytest.mark.parametrize(("written", "seconds"), [("1", 1.0), ("1.0", 1.0), ("2.5", 2.5), ("3600", 3600.0)])
def test_the_fence_hooks_deadline_may_have_a_fraction(tmp_path: Path, written: str, seconds: float) -> None:
    config = load(write(tmp_path, f"{WITH_REGISTRY}fence_deadline = {written}\n"))
    assert config.fence_deadline == seconds
    assert isinstance(config.fence_deadline, float)


@pytest.mark.parametrize(("key", "value"), [("grace", 10), ("grace", 240), ("threads", 1), ("threads", 1024)])
def test_the_ends_of_a_range_are_inside_it(tmp_path: Path, key: str, value: int) -> None:
    assert getattr(load_home(tmp_path, text=f"{key} = {value}\n{HOME}"), key) == value


@pytest.mark.parametrize("value", [1, 2**32 - 1])
def test_an_fsid_is_any_number_of_32_bits(tmp_path: Path, value: int) -> None:
    service = load_home(tmp_path, text=HOME.replace("fsid = 1234", f"fsid = {value}"))
    assert service.exports[0].fsid == str(value)


def test_a_uuid_of_decimal_digits_only_is_not_mistaken_for_a_number(tmp_path: Path) -> None:
    service = load_home(tmp_path, text=HOME.replace("fsid = 1234", f'fsid = "{"12345678" * 4}"'))
    assert service.exports[0].fsid == "12345678-1234-5678-1234-567812345678"


def test_fsid_0_is_for_services_with_nfsv4(tmp_path: Path) -> None:
    text = HOME.replace("fsid = 1234", "fsid = 0").replace('["3"]', '["3", "4.1"]')
    assert load_home(tmp_path, text=text).exports[0].fsid == "0"


@pytest.mark.parametrize("written", ["10.0.0.0/31", "10.0.0.1/31", "10.0.0.1/32", "fd00::1/127", "fd00::1/128"])
def test_networks_of_one_or_two_addresses_have_no_address_to_refuse(tmp_path: Path, written: str) -> None:
    service = load_home(tmp_path, text=HOME.replace("10.10.0.100/24", written))
    assert service.addresses[0] == ip_interface(written)


def test_a_path_may_have_blanks_and_letters_of_any_script(tmp_path: Path) -> None:
    service = load_home(tmp_path, text=HOME.replace("/srv/home/data", "/srv/home/Eva's Ünïcode data"))
    assert service.exports[0].path == Path("/srv/home/Eva's Ünïcode data")


def test_services_are_sorted_by_name_and_read_only(tmp_path: Path) -> None:
    config = load(write(tmp_path, WITH_REGISTRY, small=SMALL, home=HOME))
    assert list(config.services) == ["home", "small"]
    with pytest.raises(TypeError):
        config.services["other"] = config.services["home"]  # type: ignore[index]


def test_a_node_without_a_name_of_its_own_is_called_as_the_system_calls_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "uname", lambda: SimpleNamespace(nodename="storage7.example"))
    assert load(write(tmp_path, "")).node == "storage7.example"


def test_a_system_name_that_is_no_host_name_asks_for_a_better_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "uname", lambda: SimpleNamespace(nodename="(none)"))
    error = refusal(write(tmp_path, ""))
    assert (error.file, error.key) == (tmp_path / "nlmfo.toml", "node.name")
    assert "'(none)' is not a host name" in error.reason
    assert "[node] name" in str(error.hint)


def test_a_directory_without_services_is_a_configuration(tmp_path: Path) -> None:
    assert load(write(tmp_path)).services == {}
    (tmp_path / "services.d").rmdir()
    assert load(tmp_path).services == {}


def test_a_missing_main_file_says_how_to_begin(tmp_path: Path) -> None:
    error = refusal(tmp_path / "nowhere")
    assert error.file == tmp_path / "nowhere" / "nlmfo.toml"
    assert error.key is None
    assert "No such file" in error.reason
    assert "create it" in str(error.hint)


def test_hidden_files_and_editor_backups_are_nobodys_service(tmp_path: Path) -> None:
    write(tmp_path, home=HOME)
    for name in (
        ".home.toml.swp",
        ".#home.toml",
        ".old.toml",
        "home.toml~",
        "home.toml.bak",
        "#home.toml#",
        "README",
    ):
        (tmp_path / "services.d" / name).write_text("not TOML at all [[[")
    assert list(load(tmp_path).services) == ["home"]


def test_broken_toml_is_reported_with_its_line(tmp_path: Path) -> None:
    error = refusal(write(tmp_path, home='interface = "eth0"\naddresses = [\n\n= 3'))
    assert error.file == tmp_path / "services.d" / "home.toml"
    assert "line 4" in error.reason


def test_toml_that_is_nested_without_end_is_refused_like_any_other_broken_file(tmp_path: Path) -> None:
    assert "is not TOML" in refusal(write(tmp_path, home="x = " + "[" * 100_000)).reason


def test_text_that_is_not_utf_8_is_reported_with_its_line(tmp_path: Path) -> None:
    write(tmp_path)
    (tmp_path / "services.d" / "home.toml").write_bytes(b'interface = "eth0"\nnames = ["\xe9t\xe9"]\n')
    error = refusal(tmp_path)
    assert error.file == tmp_path / "services.d" / "home.toml"
    assert error.reason == "is not UTF-8 (line 2)"


def test_a_dangling_link_is_an_error_and_not_a_service_less(tmp_path: Path) -> None:
    link = write(tmp_path) / "services.d" / "home.toml"
    link.symlink_to("gone")
    error = refusal(tmp_path)
    assert error.file == link
    assert "cannot be read" in error.reason


def test_a_file_that_the_system_will_not_open_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def denied(_: Path) -> bytes:
        raise PermissionError(13, "Permission denied")

    write(tmp_path)
    monkeypatch.setattr(Path, "read_bytes", denied)
    error = refusal(tmp_path)
    assert error.file == tmp_path / "nlmfo.toml"
    assert error.reason == "cannot be read: Permission denied"


def test_a_fifo_is_refused_instead_of_waited_for(tmp_path: Path) -> None:
    os.mkfifo(write(tmp_path) / "services.d" / "home.toml")
    assert refusal(tmp_path).reason == "is not a regular file"


def test_services_d_that_is_no_directory_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "nlmfo.toml").write_text(MAIN)
    (tmp_path / "services.d").write_text("")
    assert refusal(tmp_path).file == tmp_path / "services.d"


def test_an_unknown_service_is_answered_with_the_known_ones(tmp_path: Path) -> None:
    config = load(write(tmp_path, WITH_REGISTRY, small=SMALL, home=HOME))
    with pytest.raises(ConfigError, match="no service 'hom'; the services are: home, small") as caught:
        config.service("hom")
    assert caught.value.hint == "did you mean 'home'?"


def test_an_unknown_service_where_there_are_none_says_where_to_describe_it() -> None:
    config = Config(Path("/etc/nlmfo"), "node1", None, {}, ())
    with pytest.raises(ConfigError, match=r"there is no service 'home'$") as caught:
        config.service("home")
    assert caught.value.hint == "describe it in /etc/nlmfo/services.d/NAME.toml"


def test_configuration_errors_end_the_command_line_with_status_2(tmp_path: Path) -> None:
    assert int(refusal(tmp_path).exit_code) == 2


NESTED = """
[[partition]]
uuid = "aaaa-0001"
mountpoint = "/srv/home/data/deep"
[[partition]]
uuid = "aaaa-0002"
mountpoint = "/srv/home/data"
[[partition]]
uuid = "aaaa-0003"
mountpoint = "/srv/home2"
"""


def test_a_path_is_on_the_partition_with_the_longest_mountpoint_above_it(tmp_path: Path) -> None:
    service = load_home(tmp_path, text=HOME + NESTED)

    def uuid_of(path: str) -> str | None:
        partition = service.partition_of(Path(path))
        return partition.uuid if partition else None

    assert uuid_of("/srv/home/data/deep") == "aaaa-0001"
    assert uuid_of("/srv/home/data/deeper") == "aaaa-0002"
    assert uuid_of("/srv/home/other") == "11111111-2222-3333-4444-555555555555"
    assert uuid_of("/srv/home2/x") == "aaaa-0003"
    assert uuid_of("/srv/home3") is None


def test_partitions_are_mounted_parents_first_and_kept_in_the_order_of_the_file(tmp_path: Path) -> None:
    service = load_home(tmp_path, text=HOME + NESTED)
    assert [partition.uuid for partition in service.partitions[2:]] == ["aaaa-0001", "aaaa-0002", "aaaa-0003"]
    order = [str(partition.mountpoint) for partition in service.mount_order]
    assert sorted(order) == sorted(str(partition.mountpoint) for partition in service.partitions)
    assert order.index("/srv/home") < order.index("/srv/home/data") < order.index("/srv/home/data/deep")


def test_the_state_partition_is_the_one_below_the_state_directory(tmp_path: Path) -> None:
    service = load_home(tmp_path)
    assert service.state_partition == service.partitions[1]
