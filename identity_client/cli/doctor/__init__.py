"""``identity-client doctor``: checks in order of dependency that find out what is wrong.

They read, connect and ask for a token; none registers, rotates or changes anything.
"""
