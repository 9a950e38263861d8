"""The figures, made from result files alone; one rule per entry of xtalrl.report.contents, all of the same form."""

for entry in FIGURES:

    rule:
        name:
            f"make_{entry.name}"
        input:
            **{name: RESULT_FILES[name] for name in entry.inputs},
        output:
            png=report(
                f"{RESULTS}/figures/{entry.name}.png",
                caption=f"../workflow/report/{entry.name}.rst",
                category="Figures",
                labels={"figure": entry.title.rstrip(".")},
            ),
            pdf=f"{RESULTS}/figures/{entry.name}.pdf",
            csv=f"{RESULTS}/figures/{entry.name}.csv",
        log:
            f"{RESULTS}/logs/make_{entry.name}.log",
        benchmark:
            f"{RESULTS}/benchmarks/make_{entry.name}.tsv"
        localrule: True
        conda:
            "../envs/workflow.yaml"
        params:
            # The settings in `config` that the entry depends on.
            entry.recorded(SETTINGS),
            call=unrecorded("xtalrl.report.contents.make_figure"),
            name=entry.name,
            config=unrecorded(config),
        message:
            f"Drawing the figure: {entry.title}"
        script:
            "../workflow/scripts/call.py"
