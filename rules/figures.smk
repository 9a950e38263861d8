"""The figures, from result files alone; xtalrl.report.contents lists them."""


localrules:
    make_figure2,
    make_figure3,
    make_figure4,
    make_figure5,
    make_figure6,
    make_figure7,
    make_figure8,
    make_outcomes_by_element,


rule make_figure2:
    input:
        **DESIGN_RESULTS,
    output:
        png=report(
            f"{RESULTS}/figures/figure2.png",
            caption="../workflow/report/figure2.rst",
            category="Figures",
        ),
        pdf=f"{RESULTS}/figures/figure2.pdf",
        csv=f"{RESULTS}/figures/figure2.csv",
    log:
        f"{RESULTS}/logs/make_figure2.log",
    benchmark:
        f"{RESULTS}/benchmarks/make_figure2.tsv"
    conda:
        "../envs/workflow.yaml"
    params:
        **SAMPLING,
        policies=ROWS,
        targets_ev=TARGETS,
        window_ev=cfg.evaluation.window_ev,
    message:
        "Drawing Figure 2"
    script:
        "../workflow/scripts/make_figure2.py"


rule make_figure3:
    input:
        evaluation=f"{RESULTS}/evaluation/evaluation.parquet",
        crystals=f"{RESULTS}/structures/crystals.parquet",
    output:
        png=report(
            f"{RESULTS}/figures/figure3.png",
            caption="../workflow/report/figure3.rst",
            category="Figures",
        ),
        pdf=f"{RESULTS}/figures/figure3.pdf",
        csv=f"{RESULTS}/figures/figure3.csv",
    log:
        f"{RESULTS}/logs/make_figure3.log",
    benchmark:
        f"{RESULTS}/benchmarks/make_figure3.tsv"
    conda:
        "../envs/workflow.yaml"
    params:
        policies=ROWS,
        window_ev=cfg.evaluation.window_ev,
    message:
        "Drawing Figure 3"
    script:
        "../workflow/scripts/make_figure3.py"


rule make_figure4:
    input:
        **DESIGN_RESULTS,
    output:
        png=report(
            f"{RESULTS}/figures/figure4.png",
            caption="../workflow/report/figure4.rst",
            category="Figures",
        ),
        pdf=f"{RESULTS}/figures/figure4.pdf",
        csv=f"{RESULTS}/figures/figure4.csv",
    log:
        f"{RESULTS}/logs/make_figure4.log",
    benchmark:
        f"{RESULTS}/benchmarks/make_figure4.tsv"
    conda:
        "../envs/workflow.yaml"
    params:
        **SAMPLING,
        policies=ROWS,
    message:
        "Drawing Figure 4"
    script:
        "../workflow/scripts/make_figure4.py"


rule make_figure5:
    input:
        labels=f"{RESULTS}/labels.parquet",
    output:
        png=report(
            f"{RESULTS}/figures/figure5.png",
            caption="../workflow/report/figure5.rst",
            category="Figures",
        ),
        pdf=f"{RESULTS}/figures/figure5.pdf",
        csv=f"{RESULTS}/figures/figure5.csv",
    log:
        f"{RESULTS}/logs/make_figure5.log",
    benchmark:
        f"{RESULTS}/benchmarks/make_figure5.tsv"
    conda:
        "../envs/workflow.yaml"
    params:
        confidence=cfg.evaluation.confidence,
    message:
        "Drawing Figure 5"
    script:
        "../workflow/scripts/make_figure5.py"


rule make_figure6:
    input:
        **DESIGN_RESULTS,
    output:
        png=report(
            f"{RESULTS}/figures/figure6.png",
            caption="../workflow/report/figure6.rst",
            category="Figures",
        ),
        pdf=f"{RESULTS}/figures/figure6.pdf",
        csv=f"{RESULTS}/figures/figure6.csv",
    log:
        f"{RESULTS}/logs/make_figure6.log",
    benchmark:
        f"{RESULTS}/benchmarks/make_figure6.tsv"
    conda:
        "../envs/workflow.yaml"
    params:
        **SAMPLING,
        policies=ROWS,
        targets_ev=TARGETS,
        window_ev=cfg.evaluation.window_ev,
    message:
        "Drawing Figure 6"
    script:
        "../workflow/scripts/make_figure2.py"


rule make_figure7:
    input:
        **DESIGN_RESULTS,
    output:
        png=report(
            f"{RESULTS}/figures/figure7.png",
            caption="../workflow/report/figure7.rst",
            category="Figures",
        ),
        pdf=f"{RESULTS}/figures/figure7.pdf",
        csv=f"{RESULTS}/figures/figure7.csv",
    log:
        f"{RESULTS}/logs/make_figure7.log",
    benchmark:
        f"{RESULTS}/benchmarks/make_figure7.tsv"
    conda:
        "../envs/workflow.yaml"
    params:
        **SAMPLING,
        target_ev=1.12,
        policies=ROWS,
        window_ev=cfg.evaluation.window_ev,
    message:
        "Drawing Figure 7"
    script:
        "../workflow/scripts/make_settings_figure.py"


rule make_figure8:
    input:
        **DESIGN_RESULTS,
    output:
        png=report(
            f"{RESULTS}/figures/figure8.png",
            caption="../workflow/report/figure8.rst",
            category="Figures",
        ),
        pdf=f"{RESULTS}/figures/figure8.pdf",
        csv=f"{RESULTS}/figures/figure8.csv",
    log:
        f"{RESULTS}/logs/make_figure8.log",
    benchmark:
        f"{RESULTS}/benchmarks/make_figure8.tsv"
    conda:
        "../envs/workflow.yaml"
    params:
        **SAMPLING,
        target_ev=4.0,
        policies=ROWS,
        window_ev=cfg.evaluation.window_ev,
    message:
        "Drawing Figure 8"
    script:
        "../workflow/scripts/make_settings_figure.py"


rule make_outcomes_by_element:
    input:
        evaluation=f"{RESULTS}/evaluation/evaluation.parquet",
    output:
        png=report(
            f"{RESULTS}/figures/outcomes_by_element.png",
            caption="../workflow/report/outcomes_by_element.rst",
            category="Figures",
        ),
        pdf=f"{RESULTS}/figures/outcomes_by_element.pdf",
        csv=f"{RESULTS}/figures/outcomes_by_element.csv",
    log:
        f"{RESULTS}/logs/make_outcomes_by_element.log",
    benchmark:
        f"{RESULTS}/benchmarks/make_outcomes_by_element.tsv"
    conda:
        "../envs/workflow.yaml"
    params:
        policies=list(ROWS),
    message:
        "Drawing failures by element"
    script:
        "../workflow/scripts/make_outcomes_by_element.py"
