"""The tables, made from result files alone; one rule per entry of xtalrl.report.contents, all of the same form."""

for entry in TABLES:

    rule:
        name:
            f"make_{entry.name}"
        input:
            **{name: RESULT_FILES[name] for name in entry.inputs},
        output:
            csv=report(
                f"{RESULTS}/tables/{entry.name}.csv",
                caption=f"../workflow/report/{entry.name}.rst",
                category="Tables",
                labels={"table": entry.title.rstrip(".")},
            ),
            markdown=f"{RESULTS}/tables/{entry.name}.md",
            latex=f"{RESULTS}/tables/{entry.name}.tex",
            caption=f"{RESULTS}/tables/{entry.name}.txt",
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
            call=unrecorded("xtalrl.report.contents.make_table"),
            name=entry.name,
            config=unrecorded(config),
        message:
            f"Making the table: {entry.title}"
        script:
            "../workflow/scripts/call.py"
