"""MT-Bench: FastChat's file forms, the tables that follow from judgment files, answering and judging."""
