# SPDX-License-Identifier: GPL-2.0-or-later
"""What a configuration may not say: each error names the file and the key, and its hint the fix."""

from __future__ import annotations

from pathlib import Path

import pytest

from nlmfo.config import load
from nlmfo.errors import ConfigError

from .test_config import HOME, MAIN, SMALL, WITH_REGISTRY, refusal, write

UUID = "11111111-2222-3333-4444-555555555555"
OTHER_UUID = "66666666-7777-8888-9999-000000000000"
STATE = 'state = "/srv/nlmfo/home"'
MOUNTPOINT = 'mountpoint = "/srv/home"'
CLIENTS = '{ "*" = "rw,no_root_squash" }'

MORE_EXPORT = """
[[export]]
path = "/srv/home/{path}"
fsid = {fsid}
clients = {{ "*" = "rw" }}
"""


def refused(directory: Path, before: str, after: str) -> ConfigError:
    """What load() says to the documented example with ``after`` in the place of ``before``."""
    assert before in HOME
    error = refusal(write(directory, home=HOME.replace(before, after, 1)))
    assert error.file == directory / "services.d" / "home.toml"
    assert str(error) == f"{error.file}: {error.key}: {error.reason}"
    assert str(error).isprintable()
    assert error.hint
    return error


# Keys


@pytest.mark.parametrize(
    ("before", "after", "key", "hint"),
    [
        ("interface =", "interfaec =", "interfaec", "did you mean 'interface'?"),
        ("uuid =", "uid =", "partition[1].uid", "did you mean 'uuid'?"),
        ("fsid =", "fsdi =", "export[1].fsdi", "did you mean 'fsid'?"),
        ("fsid =", "size =", "export[1].size", "known here: path, fsid, clients"),
    ],
)
def test_an_unknown_key_is_answered_with_a_known_one(
    tmp_path: Path, before: str, after: str, key: str, hint: str
) -> None:
    error = refused(tmp_path, before, after)
    assert (error.key, error.reason, error.hint) == (key, "unknown key", hint)


def test_a_key_that_slipped_below_a_table_is_sent_back_up(tmp_path: Path) -> None:
    error = refused(tmp_path, 'options = "noatime"', 'versions = ["3"]')
    assert (error.key, error.reason) == ("partition[1].versions", "unknown key")
    assert error.hint == "'versions' is a key of the whole file: move it above the first [[...]]"


@pytest.mark.parametrize(("written", "shown"), [('"\\u001b[2J"', "'\\x1b[2J'"), ('""', "''")])
def test_an_unknown_key_that_cannot_be_printed_is_shown_in_quotes(tmp_path: Path, written: str, shown: str) -> None:
    assert refused(tmp_path, "names =", f"{written} =").key == shown


@pytest.mark.parametrize(
    ("line", "key", "hint"),
    [
        ("addresses =", "addresses", 'addresses = ["10.0.0.100/24"]'),
        ("interface =", "interface", 'interface = "eth0"'),
        ("state =", "state", "[cluster] registry"),
        ("uuid =", "partition[1].uuid", "lsblk"),
        (MOUNTPOINT, "partition[1].mountpoint", 'mountpoint = "/srv/home"'),
        ("path =", "export[1].path", 'path = "/srv/home/data"'),
        ("fsid =", "export[1].fsid", "fsid = 1234"),
        ("clients =", "export[1].clients", 'clients = { "10.0.0.0/24" = "rw" }'),
    ],
)
def test_a_missing_key_is_named_with_an_example(tmp_path: Path, line: str, key: str, hint: str) -> None:
    error = refused(tmp_path, line, f"# {line}")
    assert (error.key, error.reason) == (key, "is missing")
    assert hint in str(error.hint)


@pytest.mark.parametrize("table", ["partition", "export"])
def test_a_service_without_partitions_or_exports_is_refused(tmp_path: Path, table: str) -> None:
    blocks = HOME.split("[[")
    without = "[[".join(block for block in blocks if not block.startswith(f"{table}]]"))
    for text in (without, f"{table} = []\n{without}"):
        error = refusal(write(tmp_path, home=text))
        assert (error.key, error.reason) == (table, "is missing")
        assert f"add a [[{table}]]" in str(error.hint)


def test_a_table_in_single_brackets_is_told_to_use_two(tmp_path: Path) -> None:
    error = refused(tmp_path, "[[export]]", "[export]")
    assert (error.key, error.reason) == ("export", "is a single table")
    assert error.hint == "write [[export]], in double brackets"


# Types


@pytest.mark.parametrize(
    ("written", "found"),
    [
        ("7", "an integer: 7"),
        ("1.5", "a float: 1.5"),
        ("true", "a boolean"),
        ('["eth0"]', "an array"),
        ("{ a = 1 }", "a table"),
        ("2026-01-01", "a date or time"),
    ],
)
def test_what_is_not_a_string_is_told_what_it_is(tmp_path: Path, written: str, found: str) -> None:
    error = refused(tmp_path, '"eth0"', written)
    assert (error.key, error.reason) == ("interface", f"must be a string, but is {found}")
    assert "in quotes" in str(error.hint)


@pytest.mark.parametrize(
    ("written", "found"), [("true", "a boolean"), ('"90"', "a string: '90'"), ("9.5", "a float: 9.5")]
)
@pytest.mark.parametrize("key", ["grace", "threads"])
def test_what_is_not_a_whole_number_is_told_what_it_is(tmp_path: Path, key: str, written: str, found: str) -> None:
    error = refused(tmp_path, "versions =", f"{key} = {written}\nversions =")
    assert (error.key, error.reason) == (key, f"must be an integer, but is {found}")
    assert "without quotes" in str(error.hint)


@pytest.mark.parametrize(
    ("before", "after", "key", "reason"),
    [
        ('["3"]', '"3"', "versions", "must be an array, but is a string: '3'"),
        ('["3"]', '["3", 4]', "versions[2]", "must be a string, but is an integer: 4"),
        ('["nfs100.example"]', "[[]]", "names[1]", "must be a string, but is an array"),
        (CLIENTS, '"*"', "export[1].clients", "must be a table, but is a string: '*'"),
        (CLIENTS, '{ "*" = 1 }', "export[1].clients.'*'", "must be a string, but is an integer: 1"),
        ("fsid = 1234", "fsid = true", "export[1].fsid", "must be an integer, but is a boolean"),
    ],
)
def test_a_wrong_type_is_blamed_on_the_very_item(
    tmp_path: Path, before: str, after: str, key: str, reason: str
) -> None:
    error = refused(tmp_path, before, after)
    assert (error.key, error.reason) == (key, reason)


@pytest.mark.parametrize(
    ("before", "key"),
    [("eth0", "interface"), ("/srv/home/data", "export[1].path"), ("noatime", "partition[1].options")],
)
def test_control_characters_and_emptiness_are_refused_in_any_string(tmp_path: Path, before: str, key: str) -> None:
    for control in ("\\n", "\\u0000", "\\u001b", "\\u007f", "\\u0085"):
        error = refused(tmp_path, f'"{before}"', f'"{before}{control}"')
        assert error.key == key
        assert error.reason.endswith("has a control character in it")
    error = refused(tmp_path, f'"{before}"', '""')
    assert (error.key, error.reason) == (key, "is empty")


# Addresses, interface, names


@pytest.mark.parametrize("written", ["10.0.0.1", "fd00::1"])
def test_an_address_without_a_prefix_is_shown_with_one(tmp_path: Path, written: str) -> None:
    error = refused(tmp_path, "10.10.0.100/24", written)
    assert (error.key, error.reason) == ("addresses[1]", f"'{written}' has no prefix length")
    assert f'write "{written}/{64 if ":" in written else 24}"' in str(error.hint)


@pytest.mark.parametrize(
    "written",
    ["nfs.example", "10.0.0.1/", "10.0.0.1/33", "10.0.0.1/255.255.255.0", "10.0.0/24", "fd00::1%eth0/64"],
)
def test_what_is_no_address_is_refused(tmp_path: Path, written: str) -> None:
    error = refused(tmp_path, "10.10.0.100/24", written)
    assert (error.key, error.reason) == ("addresses[1]", f"'{written}' is not an address")
    assert '"10.0.0.100/24"' in str(error.hint)


@pytest.mark.parametrize(
    ("written", "flaw"),
    [
        ("0.0.0.0/32", "the unspecified address"),
        ("::/128", "the unspecified address"),
        ("127.0.0.2/8", "a loopback address"),
        ("::1/128", "a loopback address"),
        ("224.0.0.5/24", "a multicast address"),
        ("ff02::1/64", "a multicast address"),
        ("169.254.1.1/16", "a link-local address"),
        ("fe80::1/64", "a link-local address"),
        ("255.255.255.255/32", "the broadcast address"),
        ("10.0.0.0/24", "the address of the network itself"),
        ("fd00::/64", "the address of the network itself"),
        ("10.0.0.255/24", "the broadcast address of its network"),
        ("::ffff:10.0.0.9/128", "an IPv4 address written as IPv6"),
    ],
)
def test_an_address_that_no_service_can_float_on_is_refused(tmp_path: Path, written: str, flaw: str) -> None:
    error = refused(tmp_path, "fd00::100/64", written)
    assert (error.key, error.reason) == ("addresses[2]", f"'{written}' is {flaw}")


def test_the_last_address_of_an_ipv6_network_is_an_address_like_any_other(tmp_path: Path) -> None:
    text = HOME.replace("fd00::100/64", "fd00::ffff:ffff:ffff:ffff/64")
    assert load(write(tmp_path, home=text)).service("home").addresses[1].version == 6


def test_an_empty_list_of_addresses_is_refused(tmp_path: Path) -> None:
    error = refused(tmp_path, '["10.10.0.100/24", "fd00::100/64"]', "[]")
    assert (error.key, error.reason) == ("addresses", "is an empty array")


def test_an_address_twice_is_refused_whatever_its_prefix(tmp_path: Path) -> None:
    error = refused(tmp_path, "fd00::100/64", "10.10.0.100/16")
    assert error.key == "addresses[2]"
    assert error.reason == "the address '10.10.0.100' is already at addresses[1]"


@pytest.mark.parametrize("name", ["eth4567890123456", "éééééééé", "eth/0", "eth 0", "eth\u00a00", "eth0:1", ".", ".."])
def test_what_the_kernel_would_not_call_an_interface_is_refused(tmp_path: Path, name: str) -> None:
    write(tmp_path, home=HOME.replace('"eth0"', f'"{name}"'))
    error = refusal(tmp_path)
    assert (error.key, error.reason) == ("interface", f"{name!r} cannot be the name of an interface")
    assert "15 bytes at most" in str(error.hint)


@pytest.mark.parametrize(
    "name",
    ["nfs_100", "-nfs", "nfs-.example", "nfs100.", "a..b", "nfs 100", "n" * 64, ".".join(["n" * 63] * 4)],
)
def test_what_rfc_1123_would_not_call_a_host_is_refused(tmp_path: Path, name: str) -> None:
    error = refused(tmp_path, '"nfs100.example"', f'"a.example", "{name}"')
    assert (error.key, error.reason) == ("names[2]", f"'{name}' is not a host name")


@pytest.mark.parametrize("name", ["10.10.0.100", "fd00::100"])
def test_an_address_is_not_a_host_name(tmp_path: Path, name: str) -> None:
    error = refused(tmp_path, "nfs100.example", name)
    assert (error.key, error.reason) == ("names[1]", f"'{name}' is an address, not a host name")


# Choices and numbers


def test_an_unknown_choice_is_answered_with_the_known_ones(tmp_path: Path) -> None:
    error = refused(tmp_path, '"netns"', '"netn"')
    assert (error.key, error.reason) == ("isolation", "'netn' is not one of: netns, host")
    assert error.hint == "did you mean 'netns'?"
    error = refused(tmp_path, "versions =", 'consistency = "lax"\nversions =')
    assert (error.key, error.reason) == ("consistency", "'lax' is not one of: sync, async, snapshot")


@pytest.mark.parametrize(
    ("written", "key", "reason"),
    [
        ("[]", "versions", "is an empty array"),
        ('["3", "2"]', "versions[2]", "'2' is not a version of NFS"),
        ('["3", "4", "3"]', "versions[3]", "'3' is there twice"),
    ],
)
def test_versions_are_some_of_those_that_exist_once_each(tmp_path: Path, written: str, key: str, reason: str) -> None:
    error = refused(tmp_path, '["3"]', written)
    assert (error.key, error.reason) == (key, reason)


@pytest.mark.parametrize(
    ("key", "value", "limits"),
    [
        ("grace", 9, "10 to 240"),
        ("grace", 241, "10 to 240"),
        ("threads", 0, "1 to 1024"),
        ("threads", 1025, "1 to 1024"),
    ],
)
def test_a_number_out_of_range_is_told_the_range(tmp_path: Path, key: str, value: int, limits: str) -> None:
    error = refused(tmp_path, "versions =", f"{key} = {value}\nversions =")
    assert (error.key, error.reason) == (key, f"{value} is out of range")
    assert error.hint == f"write a number from {limits}"


def test_grace_that_the_kernel_would_round_up_is_refused(tmp_path: Path) -> None:
    error = refused(tmp_path, "versions =", "grace = 45\nversions =")
    assert (error.key, error.reason) == ("grace", "45 is not a multiple of 10")
    assert "write 50" in str(error.hint)


# Partitions and exports


@pytest.mark.parametrize(
    ("key", "before"),
    [
        ("state", STATE),
        ("partition[1].mountpoint", MOUNTPOINT),
        ("export[1].path", 'path = "/srv/home/data"'),
    ],
)
@pytest.mark.parametrize(
    ("written", "reason", "hint"),
    [
        ("srv/home", "is not absolute", "beginning with '/'"),
        ("/srv/../etc", "has '..' in it", "the path that it leads to"),
        ("/srv//home", "is not in its plain form", 'write "/srv/home"'),
        ("/srv/./home/", "is not in its plain form", 'write "/srv/home"'),
        ("/", "is the root of the node itself", "a directory of its own"),
        ("//", "is the root of the node itself", "a directory of its own"),
    ],
)
def test_a_path_is_absolute_plain_and_not_the_root(
    tmp_path: Path, key: str, before: str, written: str, *, reason: str, hint: str
) -> None:
    error = refused(tmp_path, before, f'{before.split(" = ", maxsplit=1)[0]} = "{written}"')
    assert (error.key, error.reason) == (key, f"'{written}' {reason}")
    assert hint in str(error.hint)


@pytest.mark.parametrize("written", ["/dev/sdb1", "home-disk", "abc", "----", UUID + "0"])
def test_what_udev_would_not_call_a_uuid_is_refused(tmp_path: Path, written: str) -> None:
    error = refused(tmp_path, UUID, written)
    assert (error.key, error.reason) == ("partition[1].uuid", f"'{written}' is not the UUID of a file system")
    assert "lsblk" in str(error.hint)


def test_a_partition_is_listed_once(tmp_path: Path) -> None:
    error = refused(tmp_path, OTHER_UUID, UUID)
    assert error.key == "partition[2].uuid"
    assert error.reason == f"the uuid '{UUID}' is already at partition[1].uuid"


def test_a_mountpoint_is_used_once(tmp_path: Path) -> None:
    error = refused(tmp_path, 'mountpoint = "/srv/nlmfo/home"', MOUNTPOINT)
    assert error.key == "partition[2].mountpoint"
    assert error.reason == "the mountpoint '/srv/home' is already at partition[1].mountpoint"


def test_mount_options_have_no_blanks(tmp_path: Path) -> None:
    error = refused(tmp_path, '"noatime"', '"noatime, nodev"')
    assert (error.key, error.reason) == ("partition[1].options", "'noatime, nodev' has a blank in it")


def test_an_export_lies_on_a_partition_of_its_service(tmp_path: Path) -> None:
    error = refused(tmp_path, "/srv/home/data", "/srv/homes")
    assert error.key == "export[1].path"
    assert error.reason == "'/srv/homes' is on none of the service's partitions"
    assert "/srv/home, /srv/nlmfo/home" in str(error.hint)


def test_a_path_is_exported_once(tmp_path: Path) -> None:
    error = refusal(write(tmp_path, home=HOME + MORE_EXPORT.format(path="data", fsid=1)))
    assert error.key == "export[2].path"
    assert error.reason == "the path '/srv/home/data' is already at export[1].path"


@pytest.mark.parametrize("value", [-1, 2**32])
def test_an_fsid_has_32_bits(tmp_path: Path, value: int) -> None:
    error = refused(tmp_path, "fsid = 1234", f"fsid = {value}")
    assert (error.key, error.reason) == ("export[1].fsid", f"{value} is out of range")


@pytest.mark.parametrize("written", ["root", "", UUID[1:], UUID + "0", UUID.replace("-", "--")])
def test_an_fsid_in_words_has_32_hexadecimal_digits(tmp_path: Path, written: str) -> None:
    error = refused(tmp_path, "fsid = 1234", f'fsid = "{written}"')
    assert error.key == "export[1].fsid"
    assert error.reason in (f"'{written}' is not an fsid", "is empty")


def test_a_numeric_fsid_is_written_without_quotes(tmp_path: Path) -> None:
    error = refused(tmp_path, "fsid = 1234", 'fsid = "1234"')
    assert (error.key, error.reason) == ("export[1].fsid", "'1234' is a number in quotes")
    assert error.hint == "write it without quotes: 1234"


def test_fsid_0_is_refused_without_nfsv4(tmp_path: Path) -> None:
    error = refused(tmp_path, "fsid = 1234", "fsid = 0")
    assert error.key == "export[1].fsid"
    assert error.reason == "0 means the root of NFSv4, which this service does not serve"


def test_two_exports_of_a_service_have_two_fsids(tmp_path: Path) -> None:
    error = refusal(write(tmp_path, home=HOME + MORE_EXPORT.format(path="more", fsid=1234)))
    assert error.key == "export[2].fsid"
    assert error.reason == "the fsid '1234' is already at export[1].fsid"


@pytest.mark.parametrize("pattern", ["a b", "a\u00a0b", "a(rw)", "a)", 'a"', "a#b", "a\\\\b", "-rw"], ids=ascii)
def test_a_client_that_an_exports_file_would_misread_is_refused(tmp_path: Path, pattern: str) -> None:
    quoted = pattern.replace('"', '\\"')
    error = refused(tmp_path, '"*" =', f'"{quoted}" =')
    shown = repr(pattern.replace("\\\\", "\\"))
    assert (error.key, error.reason) == (f"export[1].clients.{shown}", f"{shown} is not a client")


@pytest.mark.parametrize(("written", "flaw"), [("", "is empty"), ("\\u007f", "has a control character in it")])
def test_a_client_is_a_string_like_any_other(tmp_path: Path, written: str, flaw: str) -> None:
    error = refused(tmp_path, '"*" =', f'"{written}" =')
    assert str(error.key).startswith("export[1].clients.'")
    assert error.reason.endswith(flaw)


def test_an_export_to_nobody_is_refused(tmp_path: Path) -> None:
    error = refused(tmp_path, CLIENTS, "{}")
    assert (error.key, error.reason) == ("export[1].clients", "names no client")


@pytest.mark.parametrize("options", ["rw, sync", "rw)(ro", "rw,", ",rw", "rw,,ro", "rw#ro"])
def test_options_that_an_exports_file_would_misread_are_refused(tmp_path: Path, options: str) -> None:
    error = refused(tmp_path, "rw,no_root_squash", options)
    assert (error.key, error.reason) == ("export[1].clients.'*'", f"'{options}' is not a list of options")


@pytest.mark.parametrize("options", ["fsid=7", "rw,fsid=root,sync"])
def test_an_fsid_among_the_options_is_sent_to_its_own_key(tmp_path: Path, options: str) -> None:
    error = refused(tmp_path, "rw,no_root_squash", options)
    assert (error.key, error.reason) == ("export[1].clients.'*'", f"'{options}' sets the fsid")
    assert "fsid = ..." in str(error.hint)


# The state directory


@pytest.mark.parametrize("state", ["/srv/home/data", "/srv/home/data/.nlmfo"])
def test_state_that_clients_could_change_is_refused(tmp_path: Path, state: str) -> None:
    error = refused(tmp_path, STATE, f'state = "{state}"')
    assert error.key == "state"
    assert error.reason == f"'{state}' is exported by export[1]: clients could read and change it"
    assert "a small partition of its own" in str(error.hint)


def test_state_above_an_export_is_refused(tmp_path: Path) -> None:
    error = refused(tmp_path, STATE, 'state = "/srv/home"')
    assert error.key == "state"
    assert error.reason == "below '/srv/home' lies '/srv/home/data', exported by export[1]"


def test_state_below_an_export_of_another_service_is_refused(tmp_path: Path) -> None:
    small = f'state = "/srv/home/data/small"\n{SMALL}'
    error = refusal(write(tmp_path, WITH_REGISTRY, home=HOME, small=small))
    assert (error.file, error.key) == (tmp_path / "services.d" / "small.toml", "state")
    assert f"exported by export[1] in {tmp_path / 'services.d' / 'home.toml'}" in error.reason


def test_state_on_an_exported_partition_is_a_warning(tmp_path: Path) -> None:
    config = load(write(tmp_path, home=HOME.replace(STATE, 'state = "/srv/home/.nlmfo"')))
    (warning,) = config.warnings
    place = f"{tmp_path / 'services.d' / 'home.toml'}: state"
    assert warning.startswith(f"{place}: '/srv/home/.nlmfo' is on '/srv/home', a file system that is also exported")
    assert "a small partition of its own is safer" in warning


def test_state_that_another_node_might_not_see_is_a_warning(tmp_path: Path) -> None:
    config = load(write(tmp_path, WITH_REGISTRY, home=HOME.replace(STATE, 'state = "/var/lib/nlmfo"')))
    (warning,) = config.warnings
    place = f"{tmp_path / 'services.d' / 'home.toml'}: state"
    assert warning.startswith(f"{place}: '/var/lib/nlmfo' is neither on a partition of the service nor")
    assert "every node sees the same directory" in warning


def test_state_below_the_registry_needs_no_warning(tmp_path: Path) -> None:
    assert load(write(tmp_path, WITH_REGISTRY, home=HOME.replace(STATE, ""))).warnings == ()


# The cluster


def cluster_refused(directory: Path, line: str) -> ConfigError:
    error = refusal(write(directory, WITH_REGISTRY + line))
    assert error.file == directory / "nlmfo.toml"
    assert str(error).isprintable()
    assert error.hint
    return error


@pytest.mark.parametrize(
    ("written", "key", "reason", "hint"),
    [
        ('"/sbin/off {node}"', "", "must be an array, but is a string: '/sbin/off {node}'", "in brackets"),
        ("[]", "", "is an empty array", "name one at least"),
        ('["/sbin/off", 7]', "[2]", "must be a string, but is an integer: 7", "in quotes"),
        ('["/sbin/off", ""]', "[2]", "is empty", "remove the line"),
        ('["/sbin/off", "{node}\\n"]', "[2]", "'{node}\\n' has a control character in it", "remove"),
        ('["off", "{node}"]', "[1]", "'off' is not absolute", "the whole path"),
        ('["/sbin/../off", "{node}"]', "[1]", "'/sbin/../off' has '..' in it", "the path that it leads to"),
        ('["/sbin/{node}", "{node}"]', "[1]", "'/sbin/{node}' would be another program for each node", "words that"),
        ('["/sbin/off"]', "", "has no {node} in it, so it could not tell whom to fence", 'for example: "{node}"'),
        ('["/sbin/off", "node", "{nod}", "{NODE}"]', "", "has no {node} in it, so it could not tell whom to fence", ""),
    ],
)
def test_a_fence_hook_that_could_not_fence_is_refused(
    tmp_path: Path, written: str, key: str, reason: str, hint: str
) -> None:
    error = cluster_refused(tmp_path, f"fence = {written}\n")
    assert (error.key, error.reason) == (f"cluster.fence{key}", reason)
    assert hint in str(error.hint)


@pytest.mark.parametrize("written", ["0", "0.99", "3600.5", "-1", "nan", "inf", "-inf"])
def test_a_fence_deadline_out_of_range_is_told_the_range(tmp_path: Path, written: str) -> None:
    error = cluster_refused(tmp_path, f"fence_deadline = {written}\n")
    assert (error.key, error.reason) == ("cluster.fence_deadline", f"{written} is out of range")
    assert error.hint == "write a number from 1 to 3600"


@pytest.mark.parametrize(
    ("written", "found"), [('"60"', "a string: '60'"), ("true", "a boolean"), ("[60]", "an array")]
)
def test_a_fence_deadline_that_is_no_number_is_told_what_it_is(tmp_path: Path, written: str, found: str) -> None:
    error = cluster_refused(tmp_path, f"fence_deadline = {written}\n")
    assert (error.key, error.reason) == ("cluster.fence_deadline", f"must be a number, but is {found}")


@pytest.mark.parametrize(("written", "found"), [('"true"', "a string: 'true'"), ("1", "an integer: 1")])
def test_whether_nfsd_may_be_restarted_is_true_or_false(tmp_path: Path, written: str, found: str) -> None:
    error = cluster_refused(tmp_path, f"restart_nfsd = {written}\n")
    assert (error.key, error.reason) == ("cluster.restart_nfsd", f"must be a boolean, but is {found}")
    assert error.hint == "write true or false, without quotes"


def test_a_misspelt_key_of_the_cluster_is_answered_with_the_right_one(tmp_path: Path) -> None:
    error = cluster_refused(tmp_path, "restart_nsfd = true\n")
    assert (error.key, error.hint) == ("cluster.restart_nsfd", "did you mean 'restart_nfsd'?")


# Between services, and the main file


@pytest.mark.parametrize("name", ["-home", "_home", "ho me", "home.old", "höme", "h" * 33, "ho\nme"])
def test_a_file_whose_name_cannot_name_a_service_is_refused(tmp_path: Path, name: str) -> None:
    error = refusal(write(tmp_path, **{name: HOME}))
    assert error.file == tmp_path / "services.d" / f"{name}.toml"
    assert error.reason == f"{name!r} cannot be the name of a service"
    assert "rename the file" in str(error.hint)


@pytest.mark.parametrize("name", ["h", "7", "Home_2-b", "h" * 32])
def test_a_file_whose_name_can_name_a_service_does(tmp_path: Path, name: str) -> None:
    assert list(load(write(tmp_path, **{name: HOME})).services) == [name]


@pytest.mark.parametrize(
    ("before", "after", "what", "key"),
    [
        ("10.10.0.101/24", "10.10.0.100/32", "address '10.10.0.100'", "addresses[1]"),
        ("ABCD-1234", UUID, f"uuid '{UUID}'", "partition[1].uuid"),
        ("/srv/small", "/srv/home", "mountpoint '/srv/home'", "partition[1].mountpoint"),
        ('"00112233:44556677:8899AABB:CCDDEEFF"', "1234", "fsid '1234'", "export[1].fsid"),
    ],
)
def test_two_services_share_nothing_that_would_clash_on_one_node(
    tmp_path: Path, before: str, after: str, what: str, key: str
) -> None:
    assert before in SMALL
    error = refusal(write(tmp_path, WITH_REGISTRY, home=HOME, small=SMALL.replace(before, after)))
    assert (error.file, error.key) == (tmp_path / "services.d" / "small.toml", key)
    assert error.reason == f"the {what} is already at {key} in {tmp_path / 'services.d' / 'home.toml'}"


def test_two_services_do_not_share_a_state_directory(tmp_path: Path) -> None:
    assert "addresses" in SMALL
    small = f"{STATE}\n{SMALL}"
    error = refusal(write(tmp_path, WITH_REGISTRY, home=HOME, small=small))
    assert (error.file.name, error.key) == ("small.toml", "state")
    assert error.reason == f"the directory '/srv/nlmfo/home' is already at state in {tmp_path / 'services.d/home.toml'}"


@pytest.mark.parametrize("registry", ["/srv/home/data", "/srv/home/data/registry"])
def test_a_registry_that_clients_could_change_is_refused(tmp_path: Path, registry: str) -> None:
    error = refusal(write(tmp_path, f'{MAIN}[cluster]\nregistry = "{registry}"\n', home=HOME))
    assert (error.file.name, error.key) == ("home.toml", "export[1].path")
    assert error.reason == f"the registry '{registry}' lies in '/srv/home/data': clients could change who owns what"


def test_two_spellings_of_one_uuid_are_the_same_fsid(tmp_path: Path) -> None:
    home = HOME.replace("fsid = 1234", 'fsid = "00112233445566778899aabbccddeeff"')
    error = refusal(write(tmp_path, WITH_REGISTRY, home=home, small=SMALL))
    assert error.key == "export[1].fsid"
    assert "is already at export[1].fsid in" in error.reason


@pytest.mark.parametrize(
    ("main", "key", "reason", "hint"),
    [
        ("[nodes]", "nodes", "unknown key", "did you mean 'node'?"),
        ("[node]\nnames = 'a'", "node.names", "unknown key", "did you mean 'name'?"),
        ("[cluster]\nregister = '/a'", "cluster.register", "unknown key", "did you mean 'registry'?"),
        ("[defaults]\nthread = 4", "defaults.thread", "unknown key", "did you mean 'threads'?"),
        ("node = 'a'", "node", "must be a table, but is a string: 'a'", "[brackets]"),
        ("[node]\nname = 'a/b'", "node.name", "'a/b' is not a host name", "letters"),
        ("[node]\nname = ''", "node.name", "is empty", "remove the line"),
        ("[node]\nname = 7", "node.name", "must be a string, but is an integer: 7", "quotes"),
        ("[cluster]\nregistry = 'srv'", "cluster.registry", "'srv' is not absolute", "'/'"),
        ("[cluster]\nregistry = '/'", "cluster.registry", "'/' is the root of the node itself", "of its own"),
        ("[defaults]\ngrace = 11", "defaults.grace", "11 is not a multiple of 10", "write 20"),
        ("[defaults]\nthreads = 0", "defaults.threads", "0 is out of range", "1 to 1024"),
    ],
)
def test_the_main_file_is_refused_with_key_reason_and_fix(
    tmp_path: Path, main: str, key: str, *, reason: str, hint: str
) -> None:
    error = refusal(write(tmp_path, main, home=HOME))
    assert (error.file, error.key, error.reason) == (tmp_path / "nlmfo.toml", key, reason)
    assert hint in str(error.hint)


def test_an_unknown_key_of_the_main_file_is_found_before_a_service_is_read(tmp_path: Path) -> None:
    assert refusal(write(tmp_path, f"{MAIN}[colour]", home="not TOML")).key == "colour"
