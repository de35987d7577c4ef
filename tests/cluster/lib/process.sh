# Processes that outlive the script that starts them. Source this.

# What tells a process from a later one with the same id.
started_at() { # PID
    sed 's/.*) //' "/proc/$1/stat" 2>/dev/null | cut -d' ' -f20
}

record() { # FILE PID
    echo "$2 $(started_at "$2")" >"$1"
}

is_running() { # FILE: of record
    local pid started
    read -r pid started 2>/dev/null <"$1" && [ "$(started_at "$pid")" = "$started" ]
}

signal() { # SIGNAL FILE
    local pid _
    if is_running "$2" && read -r pid _ <"$2"; then kill "-$1" "$pid" 2>/dev/null || true; fi
}
