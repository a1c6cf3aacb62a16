"""From result files to tidy tables, statistics, claims, tables, figures and pages."""
