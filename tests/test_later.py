"""What Lightning imports and few processes need is put off, and is there once it is needed."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

Run = Callable[[str], str]
PUT_OFF = ("torch._dynamo", "scipy.signal", "matplotlib")
HERE = f"""
import sys
import lightning_pbrl
def there(): return [name for name in {PUT_OFF} if name in sys.modules]
"""


def run(code: str, **environment: str) -> str:
    """Return what a new interpreter prints."""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env={**os.environ, **environment})
    assert done.returncode == 0, done.stderr
    return done.stdout


FORKS = """
import json, os, sys, torch
for line in sys.stdin:
    code, said = json.loads(line)
    if not (pid := os.fork()):
        for stream in (1, 2):
            os.dup2(os.open(said, os.O_WRONLY | os.O_CREAT | os.O_APPEND), stream)
        sys.argv, status = ["-c"], 1
        try:
            exec(code, {"__name__": "__main__"})
            status = 0
        finally:
            if status:
                sys.excepthook(*sys.exc_info())
            sys.stdout.flush()
            os._exit(status)
    print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), flush=True)
"""
"""An interpreter that has imported PyTorch, which takes most of the time, and runs each code in a child."""


@pytest.fixture(scope="module")
def forked(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Run]:
    """Gives what an interpreter that had imported PyTorch prints."""
    folder = tmp_path_factory.mktemp("said")
    pipe = subprocess.PIPE
    with subprocess.Popen([sys.executable, "-c", FORKS], stdin=pipe, stdout=pipe, text=True) as process:
        assert process.stdin is not None and process.stdout is not None

        def run(code: str) -> str:
            said = folder / f"{len(list(folder.iterdir()))}.txt"
            print(json.dumps([code, str(said)]), file=process.stdin, flush=True)
            assert int(process.stdout.readline()) == 0, said.read_text()
            return said.read_text()

        yield run
        process.stdin.close()


def test_importing_what_a_fit_needs(forked: Run) -> None:
    code = "import lightning_pbrl.train_cli, pytorch_lightning as pl; print(there(), type(pl.__loader__).__name__)"
    assert forked(HERE + code) == "[] SourceFileLoader\n"


def test_a_fit_without_compilation_imports_no_compiler(tmp_path: Path) -> None:
    code = """
from toys import SPEC, ToyData
from lightning_pbrl import BC, Trainer
Trainer(sys.argv[1], accelerator="cpu").fit(BC(SPEC, updates=4, hidden=(8,), batch_size=8), ToyData())
print("torch._dynamo" in sys.modules)
"""
    code = HERE.replace("import sys", f"import sys; sys.argv.append({str(tmp_path)!r})", 1) + code
    paths = os.pathsep.join([str(Path(__file__).parent), *sys.path])
    assert run(code, PYTHONPATH=paths).splitlines()[-1] == "False"


def test_afterwards_everything_is_itself(forked: Run) -> None:
    code = """
import lightning_fabric.wrappers as fabric
import pytorch_lightning as pl
import torch
import torchmetrics.utilities.plot as drawing
from pytorch_lightning.utilities.compile import from_compiled, to_uncompiled

class Module(pl.LightningModule):
    def __init__(self):
        super().__init__()
        self.layer = torch.nn.Linear(2, 1)
    def forward(self, x): return self.layer(x)

module = Module()
assert not isinstance(module, fabric.OptimizedModule) and there() == []
compiled = torch.compile(module, backend="eager")
assert isinstance(compiled, fabric.OptimizedModule) and issubclass(type(compiled), fabric.OptimizedModule)
assert to_uncompiled(compiled) is module and to_uncompiled(from_compiled(compiled)) is module
assert torch.equal(compiled(torch.ones(2)), module(torch.ones(2)))
assert sys.modules["torch._dynamo"].OptimizedModule is type(compiled) and hasattr(torch._dynamo, "config")

import scipy.signal
assert scipy.signal.windows.hamming(3).shape == (3,) and "matplotlib" not in sys.modules
import matplotlib
matplotlib.use("agg")
figure, axes = drawing.plot_single_or_multi_val(torch.tensor([1.0, 2.0]))  # draws in a style
assert type(figure) is drawing.plt.Figure
assert isinstance(axes, drawing._AX_TYPE) and isinstance(axes, drawing.matplotlib.axes.Axes)
assert drawing.plt.subplots is matplotlib.pyplot.subplots
optimizer = torch.optim.Adam(module.parameters())
module(torch.ones(2)).sum().backward()
optimizer.step()
print(there())
"""
    assert forked(HERE + code) == f"{list(PUT_OFF)}\n"


@pytest.mark.parametrize("name", PUT_OFF)
def test_what_has_been_imported_stays(name: str, forked: Run) -> None:
    code = f"import {name}\nbefore = sys.modules[{name!r}]\nimport pytorch_lightning\n"
    assert forked(f"{HERE}{code}print(sys.modules[{name!r}] is before, there())") == f"True ['{name}']\n"


def test_those_who_look_through_all_modules_import_nothing(forked: Run) -> None:
    code = """
from lightning_pbrl.later import put_off
with put_off():
    for module in list(sys.modules.values()):
        hasattr(module, "__file__"), hasattr(module, "__path__"), getattr(module, "__wrapped__", None)
print(there())
"""
    assert forked(HERE + code) == "[]\n"


LIBRARY = {
    "asks for another name": "from scipy.signal import butter, hamming",
    "asks for a submodule": "import scipy.signal.windows; from torch._dynamo.eval_frame import OptimizedModule",
    "decorates": "import torch; twice = torch.compiler.disable(lambda x: 2 * x); assert twice(3) == 6",
}


@pytest.mark.parametrize("line", LIBRARY.values(), ids=LIBRARY)
def test_a_version_that_needs_more(line: str, tmp_path: Path, forked: Run) -> None:
    (tmp_path / "torchmetrics.py").write_text(f"{line}\nvalue = 3\n")
    code = f"import sys; sys.path.insert(0, {str(tmp_path)!r})\n{HERE}import torchmetrics\n"
    code += "from lightning_pbrl.later import StandIn\n"
    code += "print(torchmetrics.value, [name for name, each in sys.modules.items() if isinstance(each, StandIn)])"
    assert forked(code) == "3 []\n"


def test_a_library_that_is_broken(tmp_path: Path, forked: Run) -> None:
    (tmp_path / "torchmetrics.py").write_text("print('once'); import nothing_like_it\n")
    code = f"import sys; sys.path.insert(0, {str(tmp_path)!r})\n{HERE}\n"
    code += "try: import torchmetrics\nexcept ImportError as error: print(error.name, 'torchmetrics' in sys.modules)"
    assert forked(code) == "once\nnothing_like_it False\n"


def test_plots_without_tables_of_properties(forked: Run) -> None:
    code = """
from lightning_pbrl.later import import_matplotlib
from lightning_pbrl.reports.plot import new_figure
import_matplotlib(), import_matplotlib()
import matplotlib.artist, matplotlib.lines
figure, (axes,) = new_figure(1)
axes.plot([0, 1], color="r", label="line")
print(axes.get_legend_handles_labels()[1], "antialiased" in matplotlib.lines.Line2D.set.__doc__)
print(len(matplotlib.artist.kwdoc(figure)) > 999)
"""
    assert forked(code) == "['line'] False\nTrue\n"
