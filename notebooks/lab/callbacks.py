"""Show a run while it trains: one progress bar, trackio without a server or a token in the output, a look at some steps."""

import contextlib
import io
import os

from transformers import TrainerCallback

from lab import bars

SHOWN = ("loss", "reward", "rewards/accuracies", "mean_token_accuracy", "entropy")


class Progress(TrainerCallback):
    """Show one bar per run, with the metrics worth watching beside it."""

    def __init__(self, name):
        self.name = name

    def on_train_begin(self, args, state, control, **kwargs):
        self.shown = {}
        on = state.is_world_process_zero
        self.bar = bars.Bar(f"{self.name}: training", state.max_steps, on)

    def on_step_end(self, args, state, control, **kwargs):
        self.bar.to(state.global_step, **self.shown)

    def on_log(self, args, state, control, logs=None, **kwargs):
        found = {k.rpartition("/")[2]: f"{logs[k]:.3g}" for k in SHOWN if k in (logs or {})}
        self.shown = found or self.shown

    def on_train_end(self, args, state, control, **kwargs):
        self.bar.close()


class Trackio(TrainerCallback):
    """Draw live curves in a local SQLite file: `trackio show --project posttraining-lab`.

    transformers' own callback would start a server in a notebook and write its write token into
    the cell's output; embed=False does not, and it never leaves the machine.
    """

    def __init__(self, recipe):
        self.recipe = recipe

    def on_train_begin(self, args, state, control, **kwargs):
        if not state.is_world_process_zero:
            return
        from lab import runs

        os.environ.setdefault("TRACKIO_DIR", str(runs.root() / "trackio"))
        import trackio

        name = f"{self.recipe['stage']}-{self.recipe['profile']}-seed{self.recipe['seed']}"
        with contextlib.redirect_stdout(io.StringIO()):  # its five lines break the progress bar
            self.run = trackio.init(
                project="posttraining-lab", name=name, config=self.recipe, embed=False
            )

    def on_log(self, args, state, control, logs=None, **kwargs):
        if state.is_world_process_zero and logs:
            self.run.log(logs, step=state.global_step)

    def on_train_end(self, args, state, control, **kwargs):
        if state.is_world_process_zero:
            with contextlib.redirect_stdout(io.StringIO()):
                self.run.finish()


class At(TrainerCallback):
    """Call a function at some steps of a run, with the step; 0 is before the first."""

    def __init__(self, steps, look):
        self.steps, self.look = steps, look

    def on_train_begin(self, args, state, control, **kwargs):
        if 0 in self.steps:
            self.look(0)

    def on_step_end(self, args, state, control, **kwargs):
        if state.global_step in self.steps:
            self.look(state.global_step)
