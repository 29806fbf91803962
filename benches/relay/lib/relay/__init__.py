"""The relay benchmark's harness: `machine` looks at the machine, `parts` are the processes around the mail server,
`measure` is one run, `waiting` the run with a full queue, `table` prints."""
