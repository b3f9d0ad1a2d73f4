# Shared by the scripts beside it, which source it: where the checkout is, packages, configuring and building.
# shellcheck shell=bash

root=$(dirname "$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")")
# Where ccache is there, checkouts in different folders share what it holds.
export CCACHE_BASEDIR=$root CCACHE_NOHASHDIR=1

# Debian's names (12 and 13; the same in Ubuntu from 22.04). g++ brings the C library's headers.
build_packages=(g++ cmake ninja-build libfmt-dev nlohmann-json3-dev libcli11-dev libsimdjson-dev libfast-float-dev
  librandom123-dev libzstd-dev zlib1g-dev libeigen3-dev libboost-dev)
# npm fetches the report's chart library. A node from elsewhere brings its own, and Debian's would not go with it.
if ! command -v npm >/dev/null; then build_packages+=(npm); fi
# shellcheck disable=SC2034
test_packages=("${build_packages[@]}" catch2 libbenchmark-dev libboost-context-dev libboost-mpi-dev libopenmpi-dev openmpi-bin
  gnuplot-nox python3-matplotlib)
# The browser that the report's page is tested in. Ubuntu has none as a package; the test is skipped there, and says so.
if ! command -v chromium >/dev/null && grep -qx ID=debian /etc/os-release 2>/dev/null; then
  test_packages+=(chromium fonts-dejavu-core)
fi

say() { echo "$*" >&2; }

# Installs those of the named Debian packages that are missing; silent when none is.
install_packages() {
  if ! command -v dpkg-query >/dev/null; then
    say "no Debian package system here: the build needs what Debian calls $*"
    return
  fi
  local package missing=()
  for package in "$@"; do
    if [[ $(dpkg-query -W -f '${db:Status-Status}' "$package" 2>/dev/null) != installed ]]; then
      missing+=("$package")
    fi
  done
  if ((${#missing[@]} == 0)); then return; fi

  local as_root=()
  if ((EUID != 0)); then
    if ! command -v sudo >/dev/null; then refuse_packages "there is no sudo" "${missing[@]}"; fi
    as_root=(sudo)
    if [[ ! -t 0 ]]; then as_root+=(-n); fi  # nobody is there to type a password
    if ! "${as_root[@]}" true; then refuse_packages "sudo was refused" "${missing[@]}"; fi
  fi
  say "installing ${missing[*]} ..."
  local apt_get=("${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get -y)
  local log
  log=$(mktemp)
  # The package lists may be absent or stale: fetched when an installation without them fails.
  if ! "${apt_get[@]}" install --no-install-recommends "${missing[@]}" </dev/null >"$log" 2>&1 &&
    ! { "${apt_get[@]}" update </dev/null >"$log" 2>&1 &&
      "${apt_get[@]}" install --no-install-recommends "${missing[@]}" </dev/null >>"$log" 2>&1; }; then
    cat "$log" >&2
    rm -f "$log"
    refuse_packages "apt-get failed" "${missing[@]}"
  fi
  rm -f "$log"
}

refuse_packages() {
  say "cannot install packages: $1; as root: apt-get install --no-install-recommends ${*:2}"
  exit 2
}

# build PRESET TESTS TARGET...: configures build/PRESET where that is needed (TESTS: ON or OFF; tests once configured stay),
# then builds the targets. Prints one line when it takes a while, and the whole log when it fails.
build() {
  local preset=$1 tests=$2 targets=("${@:3}") folder=$root/build/$1
  local cache=$folder/CMakeCache.txt log=$folder.log
  mkdir -p "$root/build"
  exec 9>"$folder.lock"
  flock 9  # another script may be building the same
  if [[ -f $cache ]] && ! grep -qxF "CMAKE_HOME_DIRECTORY:INTERNAL=$root" "$cache"; then
    say "build/$preset was configured in another place: starting it afresh"
    rm -rf "$folder"
  fi
  local first=""
  if [[ ! -f $folder/.ninja_log ]]; then first=" (first time: a few minutes)"; fi
  (
    sleep 2 >/dev/null 2>&1
    say "building ${targets[*]} in build/$preset$first ..."
  ) 9>&- &
  local notice=$!
  disown "$notice"
  local status=0
  configure_and_compile "$preset" "$tests" "${targets[@]}" </dev/null >"$log" 2>&1 9>&- || status=$?
  kill "$notice" 2>/dev/null || true
  exec 9>&-
  if ((status != 0)); then
    cat "$log" >&2
    say "the build failed; its log is $log"
    exit 1
  fi
}

configure_and_compile() {
  local preset=$1 tests=$2 targets=("${@:3}") folder=$root/build/$1
  if [[ ! -f $folder/build.ninja ]] ||
    { [[ $tests == ON ]] && ! grep -qxF POOLSIM_TESTS:BOOL=ON "$folder/CMakeCache.txt"; }; then
    (cd "$root" && cmake --preset "$preset" "-DPOOLSIM_TESTS=$tests") || return
  fi
  cmake --build "$folder" --parallel "${CMAKE_BUILD_PARALLEL_LEVEL:-$(nproc)}" --target "${targets[@]}"
}

# The part of a run's summary that every machine and build must agree on.
reproducible_summary() { sed -E '/"(wall_s|peak_rss_mb)"/d' "$1/summary.json"; }
