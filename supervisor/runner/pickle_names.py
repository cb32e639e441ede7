"""Which names in a pickle no checkpoint needs: a file that has one is never resumed and never loaded.

This is no security boundary. A pickle has a thousand ways to run a program, and a resume executes the file as the
job's user: whoever can write a run's checkpoints can already run code as that user. The list catches what is
plainly an attack, or a file that has nothing to do with training.
"""

from __future__ import annotations

#: Whoever names one of these modules wants the machine, not a model.
_MODULES = frozenset({
    "os", "posix", "nt", "sys", "subprocess", "_posixsubprocess", "shutil", "socket", "ssl", "pty", "tty", "signal",
    "ctypes", "_ctypes", "cffi", "mmap", "fcntl", "importlib", "pkgutil", "runpy", "zipimport", "pdb", "bdb",
    "cProfile", "pydoc", "marshal", "pickle", "_pickle", "cPickle", "shelve", "dbm", "asyncio", "urllib", "urllib2",
    "httplib", "requests", "ftplib", "smtplib", "telnetlib", "xmlrpc", "socketserver", "webbrowser", "popen2",
    "pip", "setuptools", "distutils", "ensurepip", "multiprocessing", "_winapi", "winreg", "msvcrt", "atexit",
})  # fmt: skip
#: Callables that run a text or open a file, by the module that has them.
_CALLABLES = {
    "builtins": {
        "eval", "exec", "execfile", "compile", "open", "file", "__import__", "input", "breakpoint", "globals", "locals",
        "vars",
    },
    "code": {"interact", "InteractiveInterpreter", "InteractiveConsole"},
    "codecs": {"open"},
    "commands": {"getoutput", "getstatusoutput"},
    "io": {"open", "open_code", "FileIO"},
    "joblib": {"load"},
    "numpy": {"load", "fromfile", "memmap", "runstring"},
    "operator": {"methodcaller"},
    "pandas": {"eval", "read_pickle"},
    "platform": {"popen"},
    "profile": {"run", "runctx", "Profile"},
    "timeit": {"timeit", "repeat", "Timer", "main"},
    "torch": {"load", "_load_from_bytes", "load_library", "load_inline", "import_ir_module"},
    "torch.hub": {"load", "download_url_to_file", "load_state_dict_from_url"},
    "trace": {"Trace"},
    "types": {"CodeType", "FunctionType"},
}  # fmt: skip
#: Names that lead anywhere, whatever they are asked of.
_ANYWHERE = frozenset({
    "__import__", "__builtins__", "__globals__", "__subclasses__", "__loader__", "system", "popen", "execve",
})  # fmt: skip
_OTHER_NAMES = {"__builtin__": "builtins", "_io": "io"}

#: Needs a look: legitimate in some checkpoints, but what they lead to is not visible in the file.
_UNUSUAL = frozenset({"builtins.getattr", "functools.partial", "builtins.setattr", "builtins.delattr"})
_UNUSUAL_MODULES = frozenset({"dill", "cloudpickle"})


def is_hostile(module: str, name: str) -> bool:
    """Return whether `module.name`, as GLOBAL names it, is something that no checkpoint needs.

    Protocol 4 follows dots in the name too (``torch.serialization`` + ``os.system``), so each part counts.
    """
    module = _OTHER_NAMES.get(module, module)
    root = module.partition(".")[0]
    *path, last = name.split(".")
    if root in _MODULES or _MODULES.intersection(path) or _ANYWHERE.intersection([*path, last]):
        return True
    return any(last in _CALLABLES.get(place, ()) for place in (module, root))


def is_unusual(module: str, name: str) -> bool:
    """Return whether only a real load can tell what `module.name` is there for."""
    module = _OTHER_NAMES.get(module, module)
    return f"{module}.{name}" in _UNUSUAL or module.partition(".")[0] in _UNUSUAL_MODULES
