"""Many runs of a recipe that differ in one thing, and their tables: the paper's ablations (Table 2, Fig. 5 and others).

Without arguments it runs them on the toy world (recipes/configs/toy/ablation.yaml), about an hour on two cores:

    python recipes/ablation.py --parallel 2

Given again it goes on where it was stopped. With GPUs and data of your own, start from that file, name your config of
recipes/grpo_invert.py in ``base`` and add ``--launcher "accelerate launch --config_file …"``. The supervised systems'
ablations (``recipe`` in their files) are in recipes/configs/planted, such as

    python recipes/ablation.py --config recipes/configs/planted/actionvlm_ablation.yaml
"""

from __future__ import annotations

from invert_rl.recipe.parser import RecipeParser
from invert_rl.recipe_help import show_help

if __name__ == "__main__":
    show_help(__file__, __doc__)  # before the imports below, which take seconds

import shlex
import signal
import sys
from pathlib import Path

from data_prep.errors import DataError
from data_prep.rows import read_rows, split_windows
from data_prep.verbs import annotate_missing
from invert_rl.ablation.clips import evaluated_rows
from invert_rl.ablation.config import AblationConfig, read_tables
from invert_rl.ablation.decisions import decide, decisions_markdown, read_hypotheses, write_decisions
from invert_rl.ablation.execute import execute
from invert_rl.ablation.guess import text_only_guess
from invert_rl.ablation.plan import of_configurations, plan
from invert_rl.ablation.plots import draw, require_matplotlib
from invert_rl.ablation.recipes import recipe_named
from invert_rl.ablation.table import lines_of, read_results, write_tables
from invert_rl.recipe.arguments import config_arguments
from invert_rl.recipe.console import clear_errors, console, quiet_libraries
from rewards.pipelines import load_pipeline

DEFAULT_CONFIG = Path(__file__).parent / "configs" / "toy" / "ablation.yaml"


def main(config: AblationConfig, config_file: Path, command: str) -> int:
    out = console()
    tables, hypotheses = read_tables(config), read_hypotheses(config)
    if config.plots:
        require_matplotlib()
    jobs = plan(config, config_file.parent)
    folder = Path(config.output_dir)
    finished = sum(job.finished for job in jobs)
    out.print(f"{len(jobs)} runs, {finished} of them finished, {config.parallel} at a time, folder {folder}")
    failed = execute(jobs, Path(__file__).parent, config.parallel, config.launcher, out.print) if config.run else []

    # tables and plots of what there is
    runs = of_configurations(jobs)
    results = read_results(runs, recipe_named(config.recipe))
    guess = None
    if any(table.text_only for table in tables) and results:
        used = results[0].settings
        train = annotate_missing(split_windows(read_rows(used["train_data"])), load_pipeline(used["verb_pipeline"]))
        guess = text_only_guess(train, evaluated_rows(used))
    lines = {table: lines_of(table, results, guess if table.text_only else None) for table in tables}
    for path in write_tables(folder, lines, results, len(runs), command):
        out.print(f"table  {path}")
    if hypotheses:
        decisions = decide(hypotheses, results, config.pairs)
        out.print(decisions_markdown(decisions, config.pairs), soft_wrap=True, markup=False, highlight=False)
        for path in write_decisions(folder, decisions, config.pairs):
            out.print(f"decided {path}")
    for table in tables if config.plots else ():
        places = {job.name: float(job.settings.get(table.x, 0.0)) for job in runs} if table.plot == "curve" else {}
        for path in draw(table, lines[table], places, folder, results):
            out.print(f"plot   {path}")
    for job in failed:
        out.print(f"failed: {job.label}, {job.folder}", style="red")
    return 1 if failed else 0


if __name__ == "__main__":
    quiet_libraries()
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # ends the runs, too
    given = config_arguments(sys.argv[1:], DEFAULT_CONFIG)
    try:
        with clear_errors():
            try:
                (ablation,) = RecipeParser((AblationConfig,), prog="recipes/ablation.py").parse_args_and_config(given)
            except DataError:
                raise
            except (ValueError, OSError) as error:
                raise DataError(f"settings: {error}") from error
            status = main(
                ablation,
                Path(given[given.index("--config") + 1]),
                shlex.join(["python", "recipes/ablation.py", *sys.argv[1:]]),
            )
    except KeyboardInterrupt:
        sys.stderr.write("stopped; the same command goes on from here\n")
        status = 130
    sys.exit(status)
