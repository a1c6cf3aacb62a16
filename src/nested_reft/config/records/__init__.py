"""The schemas of the result files, one module per kind: a changed schema reruns only the jobs that write it."""
