# api.sh - what the public headers declare, for tests that compare: to be
# sourced. Not a test itself.

# api_functions HEADER...: the names of the ZP_API functions, sorted.
api_functions() {
    cat "$@" | tr '\n' ' ' | sed 's@/\*@\n/*@g; s@\*/@*/\n@g' |
        sed '/^\/\*/d' | tr '\n' ' ' |
        grep -o 'ZP_API [^();]*(' | grep -o 'zp_[a-z0-9_]*($' |
        tr -d '(' | sort -u
}
