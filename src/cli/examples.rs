//! The examples at the end of every `--help`. A test runs all of them, and `docs/cli.md` has what they
//! print.
//!
//! A command begins with `$ ` and goes on after a backslash at the end of its line; what is to be said of
//! it stands above. Those of one group of commands follow each other, on one server.

pub(super) const RESONATE: &str = "\
Examples:
  Start a server, and in another terminal call a function of a worker:
  $ resonate dev
  $ resonate invoke hello-1 --func hello --arg world --wait

  Ask for a decision, take it, and see what it was:
  $ resonate promises create approval-1 --timeout 7d
  $ resonate promises resolve approval-1 --data '\"yes\"'
  $ resonate promises await approval-1

  Speak to a server that is somewhere else:
  $ resonate -S http://localhost:8001 promises search --limit 1";

pub(super) const INVOKE: &str = "\
Examples:
  Have a function called, and wait for what it returns:
  $ resonate invoke hello-1 --func hello --arg world --wait

  Go on at once; `resonate promises await order-1` waits for it later:
  $ resonate invoke order-1 --func order --arg 42 --arg '{\"express\": true}'

  A worker of another group, all arguments in one array, ten minutes at most:
  $ resonate invoke mail-1 -f send --json-args '[\"ada@example.com\", 3]' \\
      --target poll://any@mailers --timeout 10m

  Tomorrow:
  $ resonate invoke report-1 -f report --delay 24h";

pub(super) const PROMISES_CREATE: &str = "\
Examples:
  Pending for a week at most:
  $ resonate promises create approval-7 --timeout 7d

  With what it is about, and tags to find it by:
  $ resonate promises create approval-8 --timeout 7d \\
      --param '{\"data\": {\"invoice\": 8, \"total\": 120}}' --tags '{\"team\": \"billing\"}'";

pub(super) const PROMISES_GET: &str = "\
Examples:
  $ resonate promises get approval-8

  One that is not there:
  $ resonate promises get nobody";

pub(super) const PROMISES_RESOLVE: &str = "\
Examples:
  $ resonate promises resolve approval-7 --data '{\"by\": \"ada\"}'

  What is settled stays as it is:
  $ resonate promises resolve approval-7 --value '{\"data\": {\"by\": \"bob\"}}'

  A workflow that waits reads JSON, where a string has quotes of its own:
  $ resonate promises create question-1 --timeout 1h > /dev/null
  $ resonate promises resolve question-1 --data '\"\\\"yes\\\"\"'";

pub(super) const PROMISES_REJECT: &str = "\
Examples:
  $ resonate promises reject approval-8 --data '\"over budget\"'";

pub(super) const PROMISES_CANCEL: &str = "\
Examples:
  $ resonate promises create approval-9 --timeout 1h > /dev/null
  $ resonate promises cancel approval-9";

pub(super) const PROMISES_AWAIT: &str = "\
Examples:
  $ resonate promises await approval-7
  $ resonate promises await approval-8
  $ resonate promises await approval-9";

pub(super) const PROMISES_SEARCH: &str = "\
Examples:
  $ resonate promises search --tags '{\"team\": \"billing\"}'

  A page, and the page after it:
  $ resonate promises search --state rejected_canceled --limit 1
  $ resonate promises search --limit 1 --cursor approval-8";

pub(super) const PROMISES_REGISTER_CALLBACK: &str = "\
Examples:
  The task of order-1 is resumed, if it is suspended by then:
  $ resonate invoke order-1 --func ship > /dev/null
  $ resonate promises create paid-1 --timeout 1h > /dev/null
  $ resonate promises register-callback paid-1 order-1";

pub(super) const PROMISES_REGISTER_LISTENER: &str = "\
Examples:
  $ resonate promises register-listener paid-1 https://shop.example/paid";

pub(super) const TASKS_CREATE: &str = "\
Examples:
  $ resonate tasks create order-1 --pid worker-1 --ttl 1m --timeout 1h \\
      --tags '{\"resonate:target\": \"poll://any@shop\"}'";

pub(super) const TASKS_GET: &str = "\
Examples:
  $ resonate tasks get order-1";

pub(super) const TASKS_FENCE: &str = "\
Examples:
  $ resonate tasks fence order-1 --version 1 --action \\
      '{\"kind\": \"promise.create\", \"data\": {\"id\": \"order-1.0\", \"timeoutAt\": 9007199254740991}}'";

pub(super) const TASKS_HEARTBEAT: &str = "\
Examples:
  $ resonate tasks heartbeat --pid worker-1 --tasks '[{\"id\": \"order-1\", \"version\": 1}]'";

pub(super) const TASKS_SUSPEND: &str = "\
Examples:
  $ resonate tasks suspend order-1 --version 1 --actions '[{
      \"kind\": \"promise.register_callback\",
      \"data\": {\"awaited\": \"order-1.0\", \"awaiter\": \"order-1\"}
    }]'";

pub(super) const TASKS_CLAIM: &str = "\
Examples:
  What it waited for is there, so the task is pending again:
  $ resonate promises resolve order-1.0 > /dev/null
  $ resonate tasks claim order-1 --pid worker-2 --version 1 --ttl 1m

  A version is claimed once:
  $ resonate tasks claim order-1 --pid worker-3 --version 1 --ttl 1m";

pub(super) const TASKS_RELEASE: &str = "\
Examples:
  $ resonate tasks release order-1 --version 2";

pub(super) const TASKS_HALT: &str = "\
Examples:
  $ resonate tasks halt order-1";

pub(super) const TASKS_CONTINUE: &str = "\
Examples:
  $ resonate tasks continue order-1";

pub(super) const TASKS_COMPLETE: &str = "\
Examples:
  $ resonate tasks claim order-1 --pid worker-2 --version 2 --ttl 1m > /dev/null
  $ resonate tasks complete order-1 --version 3 --action \\
      '{\"kind\": \"promise.settle\", \"data\": {\"id\": \"order-1\", \"state\": \"resolved\"}}'";

pub(super) const TASKS_SEARCH: &str = "\
Examples:
  $ resonate tasks search --state fulfilled";

pub(super) const SCHEDULES_CREATE: &str = "\
Examples:
  The function `report` of whoever listens as group `default`, at two every night:
  $ resonate schedules create nightly --cron '0 2 * * *' \\
      --promise-id '{{.id}}-{{.timestamp}}' --promise-timeout 1h \\
      --promise-param '{\"data\": {\"func\": \"report\", \"args\": [], \"version\": 1}}' \\
      --promise-tags '{\"resonate:target\": \"poll://any@default\"}'";

pub(super) const SCHEDULES_GET: &str = "\
Examples:
  $ resonate schedules get nightly";

pub(super) const SCHEDULES_SEARCH: &str = "\
Examples:
  $ resonate schedules search --tags '{\"resonate:target\": \"poll://any@default\"}'";

pub(super) const SCHEDULES_DELETE: &str = "\
Examples:
  $ resonate schedules delete nightly";

pub(super) const TREE: &str = "\
Examples:
  $ resonate invoke order-1 --func order --wait
  $ resonate tree order-1

  As it grows, until order-1 is settled:
  $ resonate tree order-1 --watch";

pub(super) const TARGETS: &str = "\
Examples:
  No worker of this group is connected:
  $ resonate invoke mail-1 --func send --target poll://any@mailers > /dev/null
  $ resonate targets";

pub(super) const RETENTION: &str = "\
Examples:
  What is over for 30 days, and what is tagged env=test and over for an hour:
  $ resonate retention --after 30d --rule '3600000 env=test'";

pub(super) const COMPLETIONS: &str = "\
Examples:
  $ resonate completions bash > ~/.bash_completion

  In a folder of fpath:
  $ mkdir -p ~/.zfunc && resonate completions zsh > ~/.zfunc/_resonate

  $ mkdir -p ~/.config/fish/completions
  $ resonate completions fish > ~/.config/fish/completions/resonate.fish";

pub(super) const HEALTH: &str = "\
Examples:
  $ resonate health

  Does its storage answer, too?
  $ resonate health --ready";

pub(super) const MCP: &str = "\
Examples:
  What a client sends to ask whether it is there:
  $ echo '{\"jsonrpc\": \"2.0\", \"id\": 1, \"method\": \"ping\"}' | resonate mcp";
