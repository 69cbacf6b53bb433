"""`rollout-budget completion SHELL`: a script that completes commands, options, their choices and files.

Made from the parser itself, so a new command or option is there without a line here. The shell reads the script once and
needs neither Python nor this package at each key.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from rollout_budget.cli.parsing import Commands, Options
from rollout_budget.wire.common import Wire

Takes = Literal["nothing", "file", "choice", "anything"]
FILES = ("FILE", "FOLDER")
"""Metavars of what is a path."""


class Script(Wire):
    """What `completion --json` answers."""

    shell: str
    script: str


@dataclass(frozen=True, slots=True)
class Option:
    """An option: its names, and what may follow it."""

    names: tuple[str, ...]
    about: str
    takes: Takes
    choices: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Node:
    """A command: the words that lead to it, the commands below it by name with what they do, its options."""

    path: tuple[str, ...]
    below: Mapping[str, str]
    options: tuple[Option, ...]
    words: tuple[str, ...]
    """What its first positional argument may be, where there are few."""
    files: bool
    """Whether a positional argument is a file."""

    @property
    def name(self) -> str:
        """The words with blanks between them."""
        return " ".join(self.path)


def add(commands: Commands, whole: argparse.ArgumentParser) -> None:
    """Add the command, which describes all of `whole`."""
    parser = commands.command(
        "completion",
        "Print a script for bash, zsh or fish that completes commands and options.",
        "  source <(rollout-budget completion bash)                                # or in ~/.bashrc\n"
        '  rollout-budget completion zsh > "${fpath[1]}/_rollout-budget"\n'
        "  rollout-budget completion fish > ~/.config/fish/completions/rollout-budget.fish",
        lambda options: _print(options, whole),
        key=None,
        output="print shell and script as JSON",
    )
    parser.add_argument("shell", choices=tuple(SHELLS))


def nodes(parser: argparse.ArgumentParser, path: tuple[str, ...] = ()) -> Iterator[Node]:
    """Yield a command and all below it."""
    below: dict[str, str] = {}
    children: list[Node] = []
    words: tuple[str, ...] = ()
    options, files = [], False
    for action in parser._actions:  # noqa: SLF001 - argparse shows its tree nowhere else
        if isinstance(action, argparse._SubParsersAction):  # noqa: SLF001 - likewise
            below = {one.dest: one.help or "" for one in action._choices_actions}  # noqa: SLF001 - likewise
            children = [node for name, one in action.choices.items() for node in nodes(one, (*path, name))]
        elif action.option_strings:
            options.append(_option(action))
        else:
            words = words or tuple(map(str, action.choices or ()))
            files = files or action.metavar in FILES
    yield Node(path, below, tuple(options), words, files)
    yield from children


def bash(prog: str, found: Sequence[Node]) -> str:
    """Return the script for bash 4 or later."""
    function = _function(prog)
    words = [
        f"        {_quoted(node.name)}) words={_quoted(' '.join(_words(node)))}; options={_quoted(_names(node))} ;;"
        for node in found
    ]
    return "\n".join(
        [
            f"# bash completion of {prog}; made by `{prog} completion bash`",
            f"{function}() {{",
            '    local cur="${COMP_WORDS[COMP_CWORD]}" prev="${COMP_WORDS[COMP_CWORD-1]}" at="" word words options',
            "    COMPREPLY=()",
            '    for word in "${COMP_WORDS[@]:1:COMP_CWORD-1}"; do',
            f'        case "${{at:+$at }}$word" in {_paths(found)}) at="${{at:+$at }}$word" ;; esac',
            "    done",
            '    case "$at $prev" in',
            *_values(found, _bash_value),
            "    esac",
            '    case "$at" in',
            *words,
            "    esac",
            '    if [[ "$cur" == -* || -z "$words" ]]; then words="$words $options"; fi',
            '    mapfile -t COMPREPLY < <(compgen -W "$words" -- "$cur")',
            f'    case "$at" in {_with_files(found)}) if [[ "$cur" != -* ]]; then compopt -o filenames; mapfile -t COMPREPLY < <(compgen -f -- "$cur"); fi ;; esac',
            "}",
            f"complete -F {function} {prog}",
            "",
        ]
    )


def zsh(prog: str, found: Sequence[Node]) -> str:
    """Return the script for zsh, to be sourced or put into a folder of $fpath."""
    function = _function(prog)
    commands = [
        f"        {_quoted(node.name)}) below=({_described(_below(node))}); options=({_described(_about(node))}) ;;"
        for node in found
    ]
    return "\n".join(
        [
            f"#compdef {prog}",
            f"# zsh completion of {prog}; made by `{prog} completion zsh`",
            f"{function}() {{",
            '    local at="" word prev="${words[CURRENT-1]}" cur="${words[CURRENT]}"',
            "    local -a below options",
            '    for word in "${(@)words[2,CURRENT-1]}"; do',
            f'        case "${{at:+$at }}$word" in {_paths(found)}) at="${{at:+$at }}$word" ;; esac',
            "    done",
            '    case "$at $prev" in',
            *_values(found, _zsh_value),
            "    esac",
            '    case "$at" in',
            *commands,
            "    esac",
            "    (( $#below )) && _describe -t commands command below",
            f'    case "$at" in {_with_files(found)}) [[ "$cur" != -* ]] && _files ;; esac',
            '    [[ "$cur" == -* || $#below -eq 0 ]] && _describe -o -t options option options',
            "}",
            f'if [[ "${{funcstack[1]}}" == _{prog} ]]; then {function}; else compdef {function} {prog}; fi',
            "",
        ]
    )


def _values(found: Sequence[Node], value: Callable[[Option], str]) -> list[str]:
    """Return what follows each option that takes something, a branch of a shell's `case` each."""
    return [
        f"        {_pattern(node, option)}) {value(option)}; return ;;"
        for node in found
        for option in node.options
        if option.takes != "nothing"
    ]


def _with_files(found: Sequence[Node]) -> str:
    """Return the commands that take files, as a pattern."""
    return "|".join(_quoted(node.name) for node in found if node.files) or "''"


def fish(prog: str, found: Sequence[Node]) -> str:
    """Return the script for fish 3 or later."""
    function = f"_{_function(prog)}_at"
    lines = [
        f"# fish completion of {prog}; made by `{prog} completion fish`",
        f"function {function}",
        "    set -l at",
        "    for word in (commandline -opc)[2..-1]",
        f"        if contains -- (string join -- ' ' $at $word) {' '.join(_fish_quoted(node.name) for node in found if node.path)}",
        "            set at $at $word",
        "        end",
        "    end",
        '    test (string join -- " " "" $at) = (string join -- " " "" $argv)',
        "end",
        f"complete -c {prog} -f",
    ]
    for node in found:
        here = f"complete -c {prog} -n {_fish_quoted(f'{function} {node.name}'.strip())}"
        lines += [f"{here} -a {name} -d {_fish_quoted(about)}" for name, about in _below(node).items()]
        lines += [f"{here} -F"] if node.files else []
        lines += [f"{here}{_fish_option(option)} -d {_fish_quoted(option.about)}" for option in node.options]
    return "\n".join([*lines, ""])


SHELLS = {"bash": bash, "zsh": zsh, "fish": fish}


def _print(options: Options, whole: argparse.ArgumentParser) -> None:
    script = SHELLS[options.shell](whole.prog, list(nodes(whole)))
    answer = Script(shell=options.shell, script=script)
    sys.stdout.write(answer.model_dump_json(indent=2) + "\n" if options.json else script)


def _option(action: argparse.Action) -> Option:
    takes: Takes = "anything"
    if action.nargs == 0:
        takes = "nothing"
    elif action.choices:
        takes = "choice"
    elif action.metavar in FILES:
        takes = "file"
    about = (action.help or "").replace("%%", "%").partition(" (")[0]
    return Option(tuple(action.option_strings), about, takes, tuple(map(str, action.choices or ())))


def _function(prog: str) -> str:
    return "_" + prog.replace("-", "_")


def _below(node: Node) -> dict[str, str]:
    """Return the words that may follow: commands, or the choices of a positional argument."""
    return {**node.below, **dict.fromkeys(node.words, "")}


def _words(node: Node) -> list[str]:
    return list(_below(node))


def _names(node: Node) -> str:
    return " ".join(name for option in node.options for name in option.names)


def _about(node: Node) -> dict[str, str]:
    return {name: option.about for option in node.options for name in option.names}


def _paths(found: Sequence[Node]) -> str:
    return "|".join(_quoted(node.name) for node in found if node.path)


def _pattern(node: Node, option: Option) -> str:
    return "|".join(_quoted(f"{node.name} {name}") for name in option.names)


def _bash_value(option: Option) -> str:
    if option.takes == "file":
        return 'compopt -o filenames; mapfile -t COMPREPLY < <(compgen -f -- "$cur")'
    if option.takes == "choice":
        return f'mapfile -t COMPREPLY < <(compgen -W {_quoted(" ".join(option.choices))} -- "$cur")'
    return ":"


def _zsh_value(option: Option) -> str:
    if option.takes == "file":
        return "_files"
    if option.takes == "choice":
        return "compadd -- " + " ".join(map(_quoted, option.choices))
    return f"_message {_quoted(option.about)}"


def _fish_option(option: Option) -> str:
    names = "".join(f" -l {name[2:]}" if name.startswith("--") else f" -s {name[1:]}" for name in option.names)
    follows = {"nothing": "", "file": " -r -F", "anything": " -x"}
    return names + follows.get(option.takes, f" -x -a {_fish_quoted(' '.join(option.choices))}")


def _described(words: Mapping[str, str]) -> str:
    return " ".join(_quoted(f"{name}:{about}" if about else name) for name, about in words.items())


def _quoted(text: str) -> str:
    return "'" + text.replace("'", "'\\''") + "'"


def _fish_quoted(text: str) -> str:
    return "'" + text.replace("\\", "\\\\").replace("'", "\\'") + "'"
