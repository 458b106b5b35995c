# SPDX-License-Identifier: GPL-2.0-or-later
"""``nlmfo completion SHELL``: completion of commands, options and names of services, made from the parser itself.

    nlmfo completion bash > /etc/bash_completion.d/nlmfo
    nlmfo completion zsh  > /usr/share/zsh/site-functions/_nlmfo
    nlmfo completion fish > /usr/share/fish/vendor_completions.d/nlmfo.fish

The names of services are those of the files in /etc/nlmfo/services.d: nothing is run, and nobody needs to be root.
"""

from __future__ import annotations

import argparse
import shlex
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from nlmfo.cli import arguments

#: The words that stand for an argument in the help, and what the shells offer in its place.
SERVICES, FILES = frozenset({"SERVICE"}), frozenset({"FILE", "DIR"})
_LIST = 'for f in /etc/nlmfo/services.d/*.toml; do [ -e "$f" ] && f=${f##*/} && printf \'%s\\n\' "${f%.toml}"; done'


@dataclass(frozen=True, slots=True)
class Argument:
    """An option, or a positional argument if ``names`` is empty. ``value``: what stands for its value in the help."""

    names: tuple[str, ...]
    value: str
    choices: tuple[str, ...]
    text: str


@dataclass(frozen=True, slots=True)
class Command:
    """A command with its arguments; the one without a name is ``nlmfo`` itself."""

    name: str
    text: str
    arguments: tuple[Argument, ...]

    @property
    def options(self) -> tuple[Argument, ...]:
        return tuple(argument for argument in self.arguments if argument.names)

    @property
    def positionals(self) -> tuple[Argument, ...]:
        return tuple(argument for argument in self.arguments if not argument.names)


@dataclass(frozen=True, slots=True)
class Offers:
    """What a shell is told to offer for a value: some ``words``, names of services, files, or nothing."""

    words: Callable[[str], str]
    services: str
    files: str
    nothing: str

    def of(self, argument: Argument) -> str:
        if argument.choices:
            return self.words(" ".join(argument.choices))
        if argument.value in SERVICES:
            return self.services
        return self.files if argument.value in FILES else self.nothing


def commands() -> tuple[Command, ...]:
    """What the command line takes: ``nlmfo`` itself first."""
    top = arguments.parser()
    found = [Command("", top.description or "", tuple(_arguments(top)))]
    for name, (text, _, _) in arguments.COMMANDS.items():
        found.append(Command(name, text, tuple(_arguments(arguments.command(name)))))
    return tuple(found)


def script(shell: str) -> str:
    """The whole script for one of SHELLS."""
    return SHELLS[shell](commands())


def _arguments(parser: argparse.ArgumentParser) -> Iterator[Argument]:
    for action in parser._actions:  # noqa: SLF001 - argparse has no other way to look into a parser
        if isinstance(action, argparse._SubParsersAction):  # noqa: SLF001
            continue
        takes = action.nargs != 0
        value = str(action.metavar or action.dest).upper() if takes else ""
        choices = tuple(map(str, action.choices or ()))
        yield Argument(tuple(action.option_strings), value, choices, (action.help or "").replace("%%", "%"))


def _bash(found: tuple[Command, ...]) -> str:
    top, subs = found[0], found[1:]
    lines = [
        "# bash completion for nlmfo; made by 'nlmfo completion bash'",
        f"_nlmfo_services() {{ {_LIST}; }}",
        "_nlmfo() {",
        "    local cur=${COMP_WORDS[COMP_CWORD]} prev=${COMP_WORDS[COMP_CWORD-1]} command= i",
        "    COMPREPLY=()",
        "    for ((i = 1; i < COMP_CWORD; i++)); do",
        "        case ${COMP_WORDS[i]} in",
        "            --config) ((i++)) ;;",
        "            -*) ;;",
        "            *) command=${COMP_WORDS[i]}; break ;;",
        "        esac",
        "    done",
        '    case "$command $prev" in',
    ]
    for command in found:
        for option in (each for each in command.options if each.value):
            pattern = "|".join(shlex.quote(f"{command.name} {name}") for name in option.names)
            lines.append(f"        {pattern}) {_IN_BASH.of(option)}; return ;;")
    lines += ["    esac", '    case "$command" in']
    names = " ".join(command.name for command in subs)
    lines.append(f"        '') {_bash_words(f'{names} {_option_names(top)}')} ;;")
    for command in subs:
        values = [_IN_BASH.of(each) for each in command.positionals]
        more = "; ".join(
            [
                f"[[ $cur == -* ]] && {_bash_words(_option_names(command))}",
                *(f"[[ $cur == -* ]] || {v}" for v in values),
            ]
        )
        lines.append(f"        {command.name}) {more} ;;")
    return "\n".join([*lines, "    esac", "}", "complete -F _nlmfo nlmfo", ""])


def _bash_words(words: str) -> str:
    return f'COMPREPLY+=($(compgen -W {shlex.quote(words)} -- "$cur"))'


_IN_BASH = Offers(
    _bash_words,
    'COMPREPLY+=($(compgen -W "$(_nlmfo_services)" -- "$cur"))',
    'COMPREPLY+=($(compgen -f -- "$cur"))',
    ":",
)


def _option_names(command: Command) -> str:
    return " ".join(name for option in command.options for name in option.names)


def _zsh(found: tuple[Command, ...]) -> str:
    top, subs = found[0], found[1:]
    lines = [
        "#compdef nlmfo",
        "# zsh completion for nlmfo; made by 'nlmfo completion zsh'",
        f'_nlmfo_services() {{ local -a found; found=(${{(f)"$({_LIST})"}}); compadd -a found }}',
        "_nlmfo() {",
        "    local context state line curcontext=$curcontext",
        "    typeset -A opt_args",
        f"    _arguments -C {' '.join(map(_zsh_argument, top.options))} '1:command:->command' '*::argument:->argument'",
        "    case $state in",
        "    command)",
        "        local -a commands=(",
        *(f"            {shlex.quote(f'{command.name}:{_zsh_text(command.text)}')}" for command in subs),
        "        )",
        "        _describe command commands ;;",
        "    argument)",
        "        case $words[1] in",
    ]
    for command in subs:
        lines.append(f"        {command.name}) _arguments {' '.join(map(_zsh_argument, command.arguments))} ;;")
    return "\n".join([*lines, "        esac ;;", "    esac", "}", '_nlmfo "$@"', ""])


def _zsh_argument(argument: Argument) -> str:
    value = f":{argument.value}:{_IN_ZSH.of(argument)}" if argument.value else ""
    if not argument.names:
        return shlex.quote(f":{value}".replace("::", ":", 1))
    specs = [shlex.quote(f"{name}[{_zsh_text(argument.text)}]{value}") for name in argument.names]
    return " ".join(specs)


_IN_ZSH = Offers("({})".format, "_nlmfo_services", "_files", " ")


def _zsh_text(text: str) -> str:
    return text.replace("\\", "\\\\").replace("[", "\\[").replace("]", "\\]").replace(":", "\\:")


def _fish(found: tuple[Command, ...]) -> str:
    top, subs = found[0], found[1:]
    names = " ".join(command.name for command in subs)
    lines = [
        "# fish completion for nlmfo; made by 'nlmfo completion fish'",
        "complete -c nlmfo -f",
        f"set -l nlmfo_commands {names}",
        'set -l nlmfo_none "not __fish_seen_subcommand_from $nlmfo_commands"',
    ]
    lines += [_fish_argument(option, '"$nlmfo_none"') for option in top.options]
    for command in subs:
        lines.append(f'complete -c nlmfo -n "$nlmfo_none" -a {command.name} -d {shlex.quote(command.text)}')
    for command in subs:
        seen = shlex.quote(f"__fish_seen_subcommand_from {command.name}")
        lines += [
            _fish_argument(argument, seen) for argument in command.arguments if argument.names or _IN_FISH.of(argument)
        ]
    return "\n".join([*lines, ""])


def _fish_argument(argument: Argument, when: str) -> str:
    words = ["complete -c nlmfo", f"-n {when}"]
    for name in argument.names:
        words.append(f"-l {name[2:]}" if name.startswith("--") else f"-s {name[1:]}")
    if argument.names:
        words.append(f"-d {shlex.quote(argument.text)}")
    if argument.value:
        values = _IN_FISH.of(argument)
        words += ["-x" if argument.names and argument.value not in FILES else "-r" if argument.names else "", values]
    return " ".join(word for word in words if word)


_IN_FISH = Offers(
    lambda words: f"-a {shlex.quote(words)}",
    "-a '(path basename /etc/nlmfo/services.d/*.toml | path change-extension \"\")'",
    "-F",
    "",
)


SHELLS = {"bash": _bash, "zsh": _zsh, "fish": _fish}
