"""The command lines; each module is one."""
