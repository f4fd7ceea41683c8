R"PY("  # Python to an editor, a raw string to C++, which includes this file and skips this line.
"""What --help=FORM prints besides the help for a terminal: a function for each form.

Each gets the text about APP_MODULE, and the rows of the settings table as dicts (config_file.cpp).
"""

from itertools import groupby
from types import SimpleNamespace as Row


def escaped(text, special):
    for character in special:
        text = text.replace(character, "\\" + character)
    return text


def offered(rows):
    """Options that do something: those that are out of scope are left to docs/settings.md."""
    return [Row(**row) for row in rows if row["flags"] and row["section"] != "Out of scope"]


def words(row):
    """What may follow an option, separated by blanks; "" for anything."""
    return row.choices.replace(",", "")


def takes_path(row):
    return row.metavar in ("FILE", "DIR")


# --- texts to read ---

def markdown(app_module, rows):
    """docs/settings.md."""
    text = ("# Settings\n\n"
            "Generated from the table in `settings.cpp`; change it there. Sources, each overriding the ones before: "
            "default, environment variable, config file, `GUNICORN_CMD_ARGS`, command line. `gcorn --print-config` "
            "shows every value and where it came from. Italics mark where gcorn differs from gunicorn.\n")
    for section, members in groupby([Row(**row) for row in rows], lambda row: row.section):
        text += (f"\n## {section}\n\n| Setting | Command line | Default | Meaning |\n"
                 "| --- | --- | --- | --- |\n" + "".join(map(markdown_row, members)))
    return text


def markdown_row(row):
    def cell(text):
        return escaped(text, "|*_")
    def code(text):
        return "`" + escaped(text, "|") + "`"
    meaning = f"Refused: {cell(row.refused)}." if row.refused else cell(row.help)
    meaning += f" *{cell(row.note)}*" if row.note else ""
    meaning += f" Needs `{row.needs}`." if row.needs else ""
    meaning += " Changes need a restart; HUP is not enough." if row.needs_restart else ""
    flags = ", ".join(map(code, row.flags.split())) + (" " + cell(row.value) if row.flags and row.value else "")
    default = "" if row.refused or row.is_hook else code(row.default)
    return f"| {code(row.name)} | {flags} | {default} | {meaning} |\n"


def man(app_module, rows):
    """gcorn.1 in man(7) macros."""
    def roff(text):  # keeps backslashes, hyphens and leading dots from being misread
        text = text.replace("\\", "\\e").replace("-", "\\-")
        return "\\&" + text if text.startswith((".", "'")) else text
    text = ('.\\" Generated from the settings table.\n.TH GCORN 1\n'
            ".SH NAME\ngcorn \\- serve a Python WSGI application over HTTP\n"
            ".SH SYNOPSIS\n.B gcorn\n[\\fIOPTIONS\\fR] [\\fIAPP_MODULE\\fR]\n"
            f".SH DESCRIPTION\n{roff(app_module)}\n"
            "Settings are read from the environment, a config file, GUNICORN_CMD_ARGS and the command line; "
            "each overrides the ones before.\n.SH OPTIONS\n")
    for section, members in groupby(offered(rows), lambda row: row.section):
        text += f".SS {section}\n"
        for row in members:
            flags = roff(row.flags).replace(" ", "\\fR, \\fB")
            text += (f".TP\n\\fB{flags}\\fR" + (f" \\fI{row.value}\\fR" if row.value else "")
                     + f"\n{roff(row.help)} [default: {roff(row.default)}]\n")
    text += ".SH CONFIG FILE\nThese settings and hooks have no option; a config file assigns them.\n"
    for row in rows:
        if not row["flags"] and row["section"] != "Out of scope":
            text += f".TP\n\\fB{row['name']}\\fR\n{roff(row['help'])}\n"
    return text + (".SH EXIT STATUS\n"
                   ".TP\n0\nOrderly stop, or the checks passed.\n"
                   ".TP\n1\nA setting was refused, or startup failed.\n"
                   ".TP\n2\nThe command line could not be read.\n"
                   ".TP\n3\nNo worker could start.\n"
                   ".TP\n4\nThe application could not be found or is not callable.\n"
                   ".TP\nother\nThe config file or a startup hook passed it to sys.exit().\n")


# --- completions ---

def bash(app_module, rows):
    flags, cases = "-h --help -v --version", ""
    for row in offered(rows):
        flags += " " + row.flags
        if row.value and not takes_path(row):  # files are offered by -o default
            found = (f'COMPREPLY=($(compgen -W "{words(row)}" -- "$current"))' if row.choices
                     else "compopt +o default")
            cases += f"        {row.flags.replace(' ', '|')}) {found}; return ;;\n"
    return ("_gcorn() {\n"
            "    local current=${COMP_WORDS[COMP_CWORD]} option=${COMP_WORDS[COMP_CWORD-1]}\n"
            "    [[ $option == = ]] && option=${COMP_WORDS[COMP_CWORD-2]}\n"
            "    [[ $current == = ]] && current=\n"
            "    case $option in\n" + cases + "    esac\n"
            f'    [[ $current == -* ]] && COMPREPLY=($(compgen -W "{flags}" -- "$current"))\n'
            "}\n"
            "complete -o default -F _gcorn gcorn\n")


def zsh(app_module, rows):
    text = "#compdef gcorn\n_arguments -s -S"
    for row in offered(rows):
        value = ""
        if row.value:
            files = {"FILE": "_files", "DIR": "_files -/"}.get(row.metavar, "")
            value = (("::" if row.is_optional else ":") + row.metavar + ":"
                     + (f"({words(row)})" if row.choices else files))
        others = "*" if row.is_repeatable else f"({row.flags})"
        described = escaped(row.help.replace("'", "'\\''"), "[]:")
        for flag in row.flags.split():
            sign = "" if not row.value else "+" if len(flag) == 2 else "="
            text += f" \\\n  '{others}{flag}{sign}[{described}]{value}'"
    return text + (" \\\n  '(- *)'{-h,--help}'[show help]'"
                   " \\\n  '(- *)'{-v,--version}'[show the version]'"
                   " \\\n  '1:application:'\n")


def fish(app_module, rows):
    text = ("complete -c gcorn -s h -l help -d 'show help'\n"
            "complete -c gcorn -s v -l version -d 'show the version'\n")
    for row in offered(rows):
        text += "complete -c gcorn"
        for flag in row.flags.split():
            text += f" -s {flag[1:]}" if len(flag) == 2 else f" -l {flag[2:]}"
        text += "" if not row.value else " -r" if takes_path(row) else " -x"
        text += f" -a '{words(row)}'" if row.choices else ""
        described = escaped(row.help, "\\'")
        text += f" -d '{described}'\n"
    return text
# )PY"
