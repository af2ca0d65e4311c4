//! `tent target`: one end that only offers its buffer, until it is interrupted.

use std::time::Duration;

use super::capi::Library;
use super::cli::TargetArgs;
use super::clock;
use super::fail::Result;
use super::node::Node;
use super::units;

pub(crate) fn run(args: &TargetArgs) -> Result<()> {
    let lib = Library::load(args.end.transport.lib.lib.as_deref())?;
    let node = Node::start(lib, &args.end.spec(args.end.total_buffer_size, false)?)?;
    let info = &node.info;
    println!("target ready: {} at {:#x} ({})", info.segment, info.address, units::size(info.len));
    println!("measure from another machine with:");
    println!(
        "  tent bench --target_seg_name={} --target_addr={:#x} --total_buffer_size={}",
        info.segment, info.address, info.len
    );
    println!("leave with Ctrl-C");
    match args.duration {
        Some(s) => clock::pause(clock::seconds(s)),
        None => loop {
            clock::pause(Duration::from_hours(1));
        },
    }
    Ok(())
}
