"""The commands of `danmaku-train`, one module each: NAME, HELP, EXAMPLE, NEEDS_TENSORFLOW, add_flags() and run().

`run` receives every flag as a keyword argument named by its `dest`, and passes those it does not look at to the
function that does the work. So a new flag is one `add_argument` here and a parameter of that function. A new command is
a module here and its name in the table COMMANDS of training/cli.py. Nothing is imported at the top of these modules
that takes time to import: `--help` must be instant.
"""
