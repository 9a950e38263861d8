"""Call the function that a rule names in its parameter `call` (rules/common.smk)."""

from xtalrl.workflow import run_job

# Worker processes of the function import this file.
if __name__ == "__main__":
    run_job(snakemake)
