"""Tables, figures and the report, from result files alone."""


localrules:
    make_table1,
    make_table2,
    make_figure2,
    make_report,


rule make_table1:
    input:
        evaluation=f"{RESULTS}/evaluation/evaluation.parquet",
    output:
        csv=f"{RESULTS}/tables/table1_composition.csv",
        markdown=f"{RESULTS}/tables/table1_composition.md",
        latex=f"{RESULTS}/tables/table1_composition.tex",
    log:
        f"{RESULTS}/logs/make_table1.log",
    benchmark:
        f"{RESULTS}/benchmarks/make_table1.tsv"
    conda:
        "../envs/workflow.yaml"
    params:
        policies=list(POLICIES),
        bootstrap_samples=cfg.evaluation.bootstrap_samples,
        confidence=cfg.evaluation.confidence,
    message:
        "Making Table 1"
    script:
        "../workflow/scripts/make_table1.py"


rule make_table2:
    input:
        evaluation=f"{RESULTS}/evaluation/evaluation.parquet",
    output:
        csv=f"{RESULTS}/tables/table2_dft_success.csv",
        markdown=f"{RESULTS}/tables/table2_dft_success.md",
        latex=f"{RESULTS}/tables/table2_dft_success.tex",
    log:
        f"{RESULTS}/logs/make_table2.log",
    benchmark:
        f"{RESULTS}/benchmarks/make_table2.tsv"
    conda:
        "../envs/workflow.yaml"
    params:
        policies=list(POLICIES),
        bootstrap_samples=cfg.evaluation.bootstrap_samples,
        confidence=cfg.evaluation.confidence,
    message:
        "Making Table 2"
    script:
        "../workflow/scripts/make_table2.py"


rule make_figure2:
    input:
        evaluation=f"{RESULTS}/evaluation/evaluation.parquet",
        labels=f"{RESULTS}/labels.parquet",
    output:
        png=f"{RESULTS}/figures/figure2.png",
        pdf=f"{RESULTS}/figures/figure2.pdf",
        csv=f"{RESULTS}/figures/figure2.csv",
    log:
        f"{RESULTS}/logs/make_figure2.log",
    benchmark:
        f"{RESULTS}/benchmarks/make_figure2.tsv"
    conda:
        "../envs/workflow.yaml"
    params:
        policies={name: spec.target_ev for name, spec in POLICIES.items()},
        targets_ev=cfg.policies.targets_ev,
        window_ev=cfg.evaluation.window_ev,
        bootstrap_samples=cfg.evaluation.bootstrap_samples,
        confidence=cfg.evaluation.confidence,
    message:
        "Drawing Figure 2"
    script:
        "../workflow/scripts/make_figure2.py"


rule make_report:
    input:
        rejected=f"{RESULTS}/structures/rejected.parquet",
        graph_failures=f"{RESULTS}/structures/graph_failures.parquet",
        scf_outcomes=[] if cfg.labels.path else f"{RESULTS}/scf/outcomes.parquet",
        references=f"{RESULTS}/references.parquet",
        labels=f"{RESULTS}/labels.parquet",
        evaluation=f"{RESULTS}/evaluation/evaluation.parquet",
        design_outcomes=f"{RESULTS}/evaluation/outcomes.parquet",
        tables=[rules.make_table1.output.csv, rules.make_table2.output.csv],
        figures=[rules.make_figure2.output.png],
        training=policy_runs(f"{RESULTS}/policies/{{policy}}/seed{{seed}}/training.csv"),
    output:
        report=f"{RESULTS}/report.html",
    log:
        f"{RESULTS}/logs/make_report.log",
    benchmark:
        f"{RESULTS}/benchmarks/make_report.tsv"
    conda:
        "../envs/workflow.yaml"
    params:
        config=cfg.model_dump(mode="json"),
    message:
        "Writing {output.report}"
    script:
        "../workflow/scripts/make_report.py"
