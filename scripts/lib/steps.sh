# shellcheck shell=bash
# Steps that show something, and what real clients show of a gateway. To be sourced after lab.sh, with $prefix (of the
# namespaces) and $state (a directory for logs) set.

: "${prefix:?}" "${state:?}"
steps=0 failures=0

# Runs a step and prints its outcome, with what it printed as evidence. To be called by itself: behind `if`, `!`, `&&` or
# `||` the shell would run a step on behind a command that failed. Arguments: TITLE COMMAND ...
step() {
    local title=$1 evidence status outcome=ok line
    shift
    steps=$((steps + 1))
    set +e
    evidence=$(
        set -e
        "$@" 2>"$state/step.log"
    )
    status=$?
    set -e
    if ((status)); then
        outcome=FAILED failures=$((failures + 1))
        evidence+=$'\n'$(tail -n 10 "$state/step.log")
    fi
    printf '%2d. %-76s %s\n' "$steps" "$title" "$outcome"
    while IFS= read -r line; do
        [[ -z "$line" ]] || printf '      %s\n' "$line"
    done <<<"$evidence"
}

# A step without which the rest makes no sense.
vital_step() {
    step "$@"
    ((failures == 0)) || exit 1
}

# Says why a step fails, and ends it.
fail() {
    printf '%s\n' "$*" >&2
    exit 1
}

# A command on a host. Arguments: HOST COMMAND ...
on() { ip netns exec "$prefix-$1" "${@:2}"; }

# Starts a server on a host, out of the way of this script. Arguments: HOST COMMAND ...
serve() { unlocked on "$1" "${@:2}" >"$state/$1-$2.log" 2>&1 </dev/null & }

# Runs what outlives the script without the script's lock, so that a script that was killed holds up no other. Closing it as a
# redirection of a function would leave a copy open in the shell that runs the function.
unlocked() {
    exec 9>&-
    "$@"
}

# Succeeds if a text matches all expressions. Arguments: TEXT EXPRESSION ...
expect() {
    local text=$1 expression
    shift
    for expression in "$@"; do
        [[ "$text" =~ $expression ]] || fail "expected \"$expression\" in: $text"
    done
}

# Fetches a page of lab_web_server that is to match expressions. Arguments: HOST URL EXPRESSION ...
page() {
    local text
    text=$(on "$1" curl --silent --show-error --fail --max-time 5 "$2" | sed 's/<[^>]*>//g' | paste -sd ' ')
    expect "$text" "${@:3}"
    printf '%s fetches %s: %s\n' "$1" "$2" "$text"
}

# Downloads what is to be as the file. Arguments: HOST URL FILE
download() {
    local wanted got
    wanted=$(sha256sum <"$3")
    got=$(on "$1" curl --silent --show-error --fail --max-time 20 "$2" | sha256sum)
    [[ "$got" == "$wanted" ]] || fail "the content of $2 was changed: $got instead of $wanted"
    printf '%s downloads %s: %s MiB, sha256 %.16s... as sent\n' "$1" "$2" "$(($(stat -c %s "$3") >> 20))" "$got"
}

# Arguments: HOST ADDRESS ARGUMENT ...
iperf() {
    local report rate
    report=$(on "$1" iperf3 --client "$2" --time 2 --connect-timeout 5000 --format m "${@:3}" 2>&1) || fail "$report"
    rate=$(awk '/receiver/ { for (i = 2; i <= NF; i++) if ($i == "Mbits/sec") print $(i - 1) }' <<<"$report")
    awk -v rate="$rate" 'BEGIN { exit !(rate > 1) }' || fail "$report"
    printf '%s sends to %s: %s Mbit/s\n' "$1" "$2" "$rate"
}

# Packets as large as the way allows, none of which may be lost. Arguments: HOST ADDRESS
ping_well() {
    local report
    report=$(on "$1" ping -q -c 50 -i 0.01 -s 1472 -M "do" -W 2 "$2")
    expect "$report" "50 received, 0% packet loss"
    printf '%s pings %s with 1500 bytes, DF: %s\n' "$1" "$2" "$(grep received <<<"$report")"
}

# Traces a route that is to show hops and nothing else. Arguments: HOST ADDRESS MODE HOP ...
route_shows() {
    local hops
    hops=$(on "$1" traceroute -n -q 1 -w 2 -m 6 -M "$3" "$2" | awk 'NR > 1 { print $2 }' | paste -sd ' ')
    [[ "$hops" == "${*:4}" ]] || fail "$1 traces $2 ($3): expected \"${*:4}\", got \"$hops\""
    printf '%s traces %s (%s): %s\n' "$1" "$2" "$3" "$hops"
}

# Packets that a host's kernel refused because of a checksum. Arguments: HOST
wrong_checksums() {
    # shellcheck disable=SC2016 # the dollars are awk's
    on "$1" awk '/^[A-Z][A-Za-z]*:/ {
        # A line of names, then a line of numbers.
        if (!($1 in head)) { head[$1] = $0; next }
        split(head[$1], name)
        for (i = 2; i <= NF; i++) if (name[i] == "InCsumErrors") { sum += $i; found = 1 }
    } END { if (!found) exit 1; print sum + 0 }' /proc/net/snmp /proc/net/netstat
}
