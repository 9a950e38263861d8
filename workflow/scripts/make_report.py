"""Write the HTML report."""

from xtalrl.report.html import make_report
from xtalrl.workflow import job

with job(snakemake.log[0]):
    make_report(
        results=snakemake.config["results"],
        config=snakemake.config,
        report=snakemake.output.report,
    )
