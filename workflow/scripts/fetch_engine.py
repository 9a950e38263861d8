"""Find pw.x, or fetch the embedded one."""

from xtalrl.dft.engines import prepare_engine
from xtalrl.workflow import job

with job(snakemake.log[0]):
    prepare_engine(snakemake.params.command, snakemake.config["cache"])
