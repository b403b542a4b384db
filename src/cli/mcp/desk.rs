//! What is answered to which method.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::sync::Arc;

use rmcp::model::{
    CallToolRequestParams, CallToolResult, ClientNotification, ClientRequest, ContentBlock,
    ErrorCode, Implementation, InitializeResult, JsonObject, ListToolsResult, ProtocolVersion,
    ServerCapabilities, ServerResult,
};
use rmcp::service::{NotificationContext, RequestContext, RoleServer};
use rmcp::{ErrorData, Service};

use super::channel::Channel;
use super::lines::Call;
use super::tools;

const NAME: &str = "resonate-mcp";
/// Says that settled promises are told with [`super::channel::METHOD`].
const CHANNEL: &str = "claude/channel";
/// The version that is spoken, whichever one a client asks for.
const VERSION: ProtocolVersion = ProtocolVersion::V_2025_11_25;

pub(super) struct Desk {
    channel: Arc<Channel>,
}

impl Desk {
    pub(super) fn new(channel: Arc<Channel>) -> Desk {
        Desk { channel }
    }

    async fn call(
        &self,
        params: &CallToolRequestParams,
        mut context: RequestContext<RoleServer>,
    ) -> Result<ServerResult, ErrorData> {
        let call = context.extensions.remove::<Call>();
        let mut call = call.ok_or_else(|| internal("the call has lost its arguments"))?;
        call.turn.comes().await;
        let done = tokio::select! {
            done = tools::call(&self.channel, &params.name, call.arguments.as_deref()) => done,
            // Nobody waits for the answer.
            () = context.ct.cancelled() => return Err(internal("cancelled")),
        };
        let mut result = match done {
            Ok(text) => CallToolResult::success(vec![ContentBlock::text(text)]),
            Err(failure) => CallToolResult::error(vec![ContentBlock::text(failure.to_string())]),
        };
        // Of a later version of the protocol.
        result.result_type = None;
        Ok(ServerResult::CallToolResult(result))
    }
}

impl Service<RoleServer> for Desk {
    async fn handle_request(
        &self,
        request: ClientRequest,
        context: RequestContext<RoleServer>,
    ) -> Result<ServerResult, ErrorData> {
        // By name: a request that lacks what we do not need is answered too.
        match request.method() {
            "initialize" => Ok(ServerResult::InitializeResult(introduction())),
            "ping" => Ok(ServerResult::empty(())),
            "tools/list" => {
                let mut list = ListToolsResult::with_all_items(tools::list());
                list.result_type = None;
                Ok(ServerResult::ListToolsResult(list))
            }
            "tools/call" => match &request {
                ClientRequest::CallToolRequest(request) => {
                    self.call(&request.params, context).await
                }
                _ => Err(ErrorData::invalid_params("Invalid params", None)),
            },
            _ => Err(ErrorData::new(
                ErrorCode::METHOD_NOT_FOUND,
                "Method not found",
                None,
            )),
        }
    }

    async fn handle_notification(
        &self,
        _: ClientNotification,
        _: NotificationContext<RoleServer>,
    ) -> Result<(), ErrorData> {
        Ok(())
    }

    fn get_info(&self) -> InitializeResult {
        introduction()
    }

    fn supported_protocol_versions(&self) -> Cow<'static, [ProtocolVersion]> {
        Cow::Borrowed(&[VERSION])
    }
}

fn introduction() -> InitializeResult {
    let mut capabilities = ServerCapabilities::builder().enable_tools().build();
    let channel = (CHANNEL.to_owned(), JsonObject::new());
    capabilities.experimental = Some(BTreeMap::from([channel]));
    InitializeResult::new(capabilities)
        .with_protocol_version(VERSION)
        .with_server_info(Implementation::new(NAME, env!("CARGO_PKG_VERSION")))
}

fn internal(reason: &'static str) -> ErrorData {
    ErrorData::internal_error(reason, None)
}
