"""Write the HTML report."""

from xtalrl.report.html import make_report
from xtalrl.workflow import job

with job(snakemake.log[0]):
    make_report(
        results=snakemake.params.config["results"],
        config=snakemake.params.config,
        report=snakemake.output.report,
    )
